//! Every strategy on every database in every failure mode, with nothing wrong but records: sound ones, poison,
//! records that fail for a while, and contents that a database may stumble over.

use std::collections::BTreeMap;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::writer::WriteRecord;

use super::bed::Bed;
use super::table::Kind;
use super::truth::{Life, Mode, Offsets, Strategy};
use super::{on_all, with_every_strategy};
use crate::faults::scene::{LIMIT, drain};

with_every_strategy! {
    happy_path_and_poison,
    a_held_partition,
}

const RECORDS: u64 = 1_500;

/// What happens to some records.
fn fault(index: u64) -> Option<&'static str> {
    match index {
        400 | 1_401 => Some("transient:99"),
        501 | 1_100 => Some("panic"),
        902 => Some("infrastructure:50"),
        index if index % 50 == 7 => Some("permanent"),
        index if index % 100 == 3 => Some("transient:2"),
        _ => None,
    }
}

/// Keys, values and headers that are no text, or that have none.
fn strange() -> Vec<WriteRecord> {
    let sound = || Orders::new(3).order(0).into_record();
    let bare = WriteRecord {
        key: None,
        ..sound()
    };
    let tombstone = WriteRecord {
        value: None,
        ..sound()
    };
    let all = [
        sound().key([0xff, 0, 0xfe]),
        sound()
            .key("")
            .header("orchestrator.dedup-key", "of-another-pipeline"),
        WriteRecord::new([0, 0xff, 0xc3, 0x28])
            .key("a\0b")
            .header("h\u{e9}", [0xff, 0]),
        WriteRecord::new("").header("orchestrator.dedup-key", "'; DROP TABLE event_failures; --"),
        bare,
        tombstone,
        sound().timestamp(0),
    ];
    let partitions = (0..3).cycle();
    let spread = all.into_iter().cycle().take(20).zip(partitions);
    spread
        .map(|(record, partition)| record.partition(partition))
        .collect()
}

async fn happy_path_and_poison(strategy: Strategy, kind: Kind) {
    for mode in [Mode::SkipAndLog, Mode::AtomicDlq] {
        let bed = Bed::new(strategy, kind, mode).await;
        bed.write_orders(RECORDS, fault).await;
        bed.write(strange()).await;
        let app = bed.start("solo");
        bed.scene.wait_until_caught_up().await;
        let lives = [bed.whole_life(&Offsets::new()).await];
        let judged = bed.settles(&lives).await;
        assert_eq!(judged.untold, 0);
        drain(&app).await;
        bed.settles(&lives).await;
    }
}

/// One record holds its partition: the ledger has it as received, and nothing behind it as passed.
async fn a_held_partition(strategy: Strategy, kind: Kind) {
    let bed = Bed::new(strategy, kind, Mode::AtomicBlock).await;
    let held_at = 100;
    bed.write_orders(RECORDS, |index| match index {
        index if index == held_at * 3 => Some("permanent"),
        index if index % 100 == 4 => Some("transient:2"),
        _ => None,
    })
    .await;
    let app = bed.start("solo");
    let each = (RECORDS / 3) as i64;
    let passed: Offsets = BTreeMap::from([(0, held_at as i64), (1, each), (2, each)]);
    let admin = &bed.scene.admin;
    let waiting = admin.wait_for_committed(&bed.scene.group, bed.source(), &passed, LIMIT);
    waiting.await.unwrap();
    let mut life = Life::new(&Offsets::new(), passed);
    life.at_rest = true;
    bed.settles(std::slice::from_ref(&life)).await;
    drain(&app).await;
    bed.settles(&[life]).await;
}

/// The value of every record is kept where that is asked for, whatever it is.
#[tokio::test(flavor = "multi_thread")]
async fn every_payload_is_kept() {
    on_all(async |kind| {
        let bed = Bed::new(Strategy::Outbox, kind, Mode::SkipAndLog).await;
        let bed = bed.keeping_all_payloads();
        bed.write_orders(300, fault).await;
        bed.write(strange()).await;
        let app = bed.start("solo");
        bed.scene.wait_until_caught_up().await;
        let lives = [bed.whole_life(&Offsets::new()).await];
        bed.settles(&lives).await;
        drain(&app).await;
    })
    .await;
}

/// Without a strategy there is no ledger.
#[tokio::test(flavor = "multi_thread")]
async fn none_touches_no_table() {
    let bed = Bed::new(Strategy::None, Kind::Sqlite, Mode::SkipAndLog).await;
    let url = bed.table.url().to_owned();
    let bed = bed.with("ORCH_DB_URL", url);
    bed.write_orders(RECORDS, fault).await;
    let app = bed.start("solo");
    bed.scene.wait_until_caught_up().await;
    drain(&app).await;
    assert!(bed.table.is_untouched());
}
