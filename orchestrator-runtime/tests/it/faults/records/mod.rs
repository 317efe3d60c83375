//! Records that fail each in its own way. Whatever becomes of one, its neighbours and the other partitions are done.

mod app;
mod refused;
mod waiting;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::writer::WriteRecord;

use super::exact::Fate;

/// Sound orders before and after the record that fails.
const NEIGHBOURS: u64 = 100;

/// Sound orders of one partition with one among them that carries a fault and has another fate.
fn orders_with_fault(
    partition: i32,
    header: (&str, &str),
    fate: impl Fn(&[u8]) -> Fate,
) -> Vec<(WriteRecord, Fate)> {
    let first = 1_000_000 * u64::try_from(partition).unwrap();
    let orders = Orders::new(7).range(first..first + 2 * NEIGHBOURS + 1);
    let records = orders.map(|order| {
        let faulty = order.index == first + NEIGHBOURS;
        let value = order.value.clone().into_bytes();
        let record = order.into_record().partition(partition);
        if faulty {
            (record.header(header.0, header.1), fate(&value))
        } else {
            (record, Fate::of_order(&value))
        }
    });
    records.collect()
}

/// The place of the faulty one in its partition.
const FAULTY_AT: i64 = NEIGHBOURS as i64;
