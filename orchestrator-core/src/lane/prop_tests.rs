//! The lane at random: whatever a worker does, records come out once and in order.

use std::time::Duration;

use proptest::prelude::*;

use super::tests::{done, record, waiting};
use super::*;
use crate::ports::UnitSlice;

/// Drives a lane as a worker may, with whatever comes to its mind, and keeps what comes out.
struct Driver {
    lane: Lane,
    now: Instant,
    transforming: Vec<(i64, Vec<i64>)>,
    retrying: Vec<i64>,
    given_out: Vec<UnitSlice>,
    passed: Vec<(i64, i64, Vec<i64>)>,
}

/// Every third offset does not exist.
fn exists(offset: &i64) -> bool {
    offset % 3 != 1
}

impl Driver {
    fn new() -> Self {
        Self {
            lane: Lane::new(SourcePartition::new("t", 0), Epoch(1), 0),
            now: Instant::now(),
            transforming: Vec::new(),
            retrying: Vec::new(),
            given_out: Vec::new(),
            passed: Vec::new(),
        }
    }

    fn outcome(&self, offset: i64, chance: u8) -> Tried {
        let due = self.now + Duration::from_millis(u64::from(chance));
        match chance % 5 {
            0 => waiting(offset, due, HoldReason::RetryBackoff),
            1 if chance.is_multiple_of(2) => waiting(offset, due, HoldReason::Poison),
            _ => done(offset),
        }
    }

    fn step(&mut self, what: u8, chance: u8) {
        match what % 12 {
            0 | 1 if self.lane.reads_on() => {
                let from = self.lane.taken_in();
                let next = from + 1 + i64::from(chance % 7);
                let offsets: Vec<_> = (from..next).filter(exists).collect();
                let records: Vec<_> = offsets.iter().copied().map(record).collect();
                assert!(self.lane.take_in(from, next, &records));
                self.transforming.push((from, offsets));
            }
            2 | 3 if !self.transforming.is_empty() => {
                let at = usize::from(chance) % self.transforming.len();
                let (from, offsets) = self.transforming.remove(at);
                let spread = |offset: i64| chance.wrapping_mul(offset as u8 | 1);
                let tried: Vec<_> = offsets
                    .into_iter()
                    .map(|offset| self.outcome(offset, spread(offset)))
                    .collect();
                self.lane.transformed(from, tried);
            }
            4 => self.given_out.extend(self.lane.take_ready(
                usize::from(chance % 9),
                1 << 20,
                1 << 20,
            )),
            5 => self.pass(),
            6 => {
                for slice in self.given_out.drain(..).rev() {
                    self.lane.put_back(slice);
                }
                self.lane.narrow(usize::from(chance % 4));
            }
            7 => {
                self.now += Duration::from_millis(u64::from(chance));
                let due = self.lane.start_due(self.now);
                self.retrying.extend(due.iter().map(|w| w.record.offset()));
            }
            8 if !self.retrying.is_empty() => {
                let offset = self.retrying.remove(0);
                let tried = self.outcome(offset, chance);
                self.lane.retried(offset, tried);
            }
            9 => self.lane.compact(),
            10 => self.lane.shed(),
            11 => self.lane.stop(Stop {
                reason: HoldReason::Database,
                error: "down".into(),
                in_a_row: 1,
                due: Some(self.now + Duration::from_millis(9)),
            }),
            _ => {}
        }
        self.lane.end_stop(self.now);
    }

    /// What was given out is committed.
    fn pass(&mut self) {
        for slice in self.given_out.drain(..) {
            let offsets = slice.done.iter().map(|done| done.record.offset());
            self.passed
                .push((slice.from, slice.next, offsets.collect()));
            self.lane.committed(slice.next);
        }
    }

    /// Everything comes out in the end.
    fn finish(&mut self) {
        while self.lane.bytes() > 0 || self.lane.transforming() || !self.lane.is_empty() {
            self.now += Duration::from_secs(1);
            self.lane.end_stop(self.now);
            for (from, offsets) in std::mem::take(&mut self.transforming) {
                self.lane.transformed(from, offsets.into_iter().map(done));
            }
            let due = self.lane.start_due(self.now);
            self.retrying.extend(due.iter().map(|w| w.record.offset()));
            for offset in std::mem::take(&mut self.retrying) {
                self.lane.retried(offset, done(offset));
            }
            while let Some(slice) = self.lane.take_ready(100, 1 << 20, usize::MAX) {
                self.given_out.push(slice);
            }
        }
        self.pass();
    }
}

proptest! {
    #[test]
    fn whatever_happens_records_come_out_once_and_in_order(
        steps in proptest::collection::vec(any::<(u8, u8)>(), 0..200)
    ) {
        let mut driver = Driver::new();
        for (what, chance) in steps {
            driver.step(what, chance);
        }
        driver.finish();
        prop_assert_eq!((driver.lane.bytes(), driver.lane.tally()), (0, (0, 0)));
        let mut stands = 0;
        for (from, next, offsets) in &driver.passed {
            prop_assert_eq!(*from, stands);
            prop_assert_eq!(offsets, &(*from..*next).filter(exists).collect::<Vec<_>>());
            stands = *next;
        }
        prop_assert_eq!(stands, driver.lane.taken_in());
    }
}
