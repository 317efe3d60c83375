//! Records that a transformer, or the broker, chokes on.

use std::collections::BTreeMap;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::writer::WriteRecord;

use super::super::exact::Fate;
use super::super::given;
use super::super::scene::Scene;

/// What the example app is told to do with an order, and whether that makes a dead letter of it.
const FAULTS: [(&str, bool); 6] = [
    ("permanent", true),
    ("panic", true),
    ("oversize:3000000", true),
    ("hang:700", false),
    ("transient:2", false),
    ("infrastructure:500", false),
];
/// No load has these.
const SEED: u64 = 7;

#[derive(Default)]
pub(super) struct Unruly {
    orders: u64,
    all: u64,
    dead: u64,
    written: BTreeMap<&'static str, u64>,
}

impl Unruly {
    /// One of each kind, as the last records of the source for now.
    pub(super) async fn come(&mut self, scene: &Scene) {
        let mut records = Vec::new();
        for (fault, dies) in FAULTS {
            let order = Orders::new(SEED).order(self.orders);
            self.orders += 1;
            let record = order.into_record().header("x-fault", fault);
            records.push((record, dies));
            *self.written.entry(fault).or_default() += 1;
        }
        let undecodable = WriteRecord::new(vec![0xff, 0, b'{']).key("undecodable");
        records.push((undecodable, true));
        *self.written.entry("undecodable").or_default() += 1;
        self.all += records.len() as u64;
        self.dead += records.iter().filter(|(_, dies)| *dies).count() as u64;
        // What becomes of them is the auditor's to say.
        let records = records
            .into_iter()
            .map(|(record, _)| (record, Fate::Nothing));
        scene.write(0, records.collect()).await;
    }

    pub(super) fn all(&self) -> u64 {
        self.all
    }

    /// How many have to become dead letters.
    pub(super) fn dead(&self) -> u64 {
        self.dead
    }

    pub(super) fn tell(&self) {
        for (what, times) in &self.written {
            given::bitten(*times, &format!("records: {what}"));
        }
    }
}
