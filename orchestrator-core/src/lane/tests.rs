//! The lane by hand and at random.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::error::TransformError;
use crate::failure::{Failure, FailureRecord};
use crate::output::Outputs;
use crate::ports::{Done, FailedFate, Fate};

fn record(offset: i64) -> Record {
    Record::builder("t", 0, offset).value("v").build()
}

fn done(offset: i64) -> Tried {
    Tried::Done(Done {
        record: record(offset),
        fate: Fate::Outputs(Outputs::none()),
    })
}

fn waiting(offset: i64, due: Instant, reason: HoldReason) -> Tried {
    Tried::Waiting(Box::new(Waiting {
        record: record(offset),
        failure: Failure::of(&TransformError::transient("no"), 1, 0),
        in_a_row: 1,
        reason,
        due,
    }))
}

fn lane_of(offsets: std::ops::Range<i64>) -> Lane {
    let mut lane = Lane::new(SourcePartition::new("t", 0), Epoch(1), offsets.start);
    let records: Vec<_> = offsets.clone().map(record).collect();
    assert!(lane.take_in(offsets.start, offsets.end, &records));
    lane
}

#[test]
fn what_is_ready_goes_whole() {
    let mut lane = lane_of(5..9);
    assert!(lane.take_ready(100, usize::MAX, usize::MAX).is_none());
    lane.transformed(5, (5..9).map(done));
    let slice = lane.take_ready(100, usize::MAX, usize::MAX).unwrap();
    assert_eq!((slice.from, slice.next, slice.done.len()), (5, 9, 4));
    assert!(lane.is_empty());
    assert_eq!(lane.bytes(), 0);
}

#[test]
fn the_prefix_before_a_waiting_record_goes_and_the_rest_follows_in_order() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let mut lane = lane_of(0..5);
    lane.transformed(
        0,
        (0..5).map(|o| {
            if o == 2 {
                waiting(2, later, HoldReason::RetryBackoff)
            } else {
                done(o)
            }
        }),
    );
    let slice = lane.take_ready(100, usize::MAX, usize::MAX).unwrap();
    assert_eq!((slice.from, slice.next), (0, 2));
    assert!(lane.take_ready(100, usize::MAX, usize::MAX).is_none());
    assert_eq!(lane.held().unwrap().offset, 2);
    assert_eq!(lane.next_due(), Some(later));
    assert!(lane.start_due(now).is_empty());
    assert_eq!(lane.start_due(later).len(), 1);
    assert!(lane.transforming());
    lane.retried(2, done(2));
    let slice = lane.take_ready(100, usize::MAX, usize::MAX).unwrap();
    assert_eq!((slice.from, slice.next), (2, 5));
    assert_eq!((lane.bytes(), lane.tally()), (0, (0, 0)));
}

#[test]
fn what_is_put_back_comes_again() {
    let mut lane = lane_of(0..4);
    lane.transformed(0, (0..4).map(done));
    let first = lane.take_ready(2, usize::MAX, usize::MAX).unwrap();
    let second = lane.take_ready(2, usize::MAX, usize::MAX).unwrap();
    assert_eq!((second.from, second.next), (2, 4));
    lane.put_back(second);
    lane.put_back(first);
    lane.narrow(2);
    let again = lane.take_ready(100, usize::MAX, usize::MAX).unwrap();
    assert_eq!((again.from, again.next), (0, 1));
}

#[test]
fn records_that_do_not_follow_are_not_taken_in() {
    let mut lane = lane_of(0..4);
    assert!(!lane.take_in(5, 6, &[record(5)]));
    assert!(lane.take_in(4, 9, &[record(8)]));
    assert_eq!(lane.taken_in(), 9);
}

#[test]
fn what_is_shed_is_read_again() {
    let later = Instant::now() + Duration::from_secs(9);
    let mut lane = lane_of(3..8);
    let held = |o| match o {
        5 | 7 => waiting(o, later, HoldReason::Poison),
        _ => done(o),
    };
    lane.shed();
    assert_eq!(lane.taken_in(), 8, "not while it is transformed");
    lane.transformed(3, (3..8).map(held));
    let slice = lane.take_ready(100, usize::MAX, usize::MAX).unwrap();
    assert_eq!((slice.from, slice.next), (3, 5));
    let before = lane.bytes();
    lane.shed();
    assert!(lane.bytes() < before);
    assert_eq!((lane.taken_in(), lane.held().unwrap().offset), (6, 5));
    assert_eq!((lane.next_due(), lane.tally()), (Some(later), (1, 1)));
    // The unit that was given out before comes back.
    lane.put_back(slice);
    assert!(lane.take_in(6, 8, &[record(6), record(7)]));
    lane.transformed(6, [done(6), done(7)]);
    assert_eq!(lane.start_due(later).len(), 1);
    lane.retried(5, done(5));
    let taken: Vec<_> =
        std::iter::from_fn(|| lane.take_ready(100, usize::MAX, usize::MAX)).collect();
    let spans: Vec<_> = taken.iter().map(|s| (s.from, s.next)).collect();
    assert_eq!(spans, [(3, 5), (5, 6), (6, 8)]);
    assert_eq!((lane.bytes(), lane.tally()), (0, (0, 0)));
}

#[test]
fn a_stop_holds_everything_until_it_is_due() {
    let now = Instant::now();
    let mut lane = lane_of(0..1);
    lane.transformed(0, [done(0)]);
    lane.stop(Stop {
        reason: HoldReason::Database,
        error: "down".into(),
        in_a_row: 1,
        due: Some(now + Duration::from_secs(1)),
    });
    assert!(lane.take_ready(9, 99, usize::MAX).is_none());
    assert!(lane.end_stop(now).is_none());
    assert!(lane.end_stop(now + Duration::from_secs(1)).is_some());
    assert!(lane.take_ready(9, 9999, usize::MAX).is_some());
}

#[test]
fn a_record_judged_anew_weighs_what_it_is_now() {
    let heavy = Record::builder("t", 0, 0).value(vec![0; 1000]).build();
    let failed = FailureRecord {
        record: heavy.clone(),
        target_topic: None,
        failure: Failure::of(&TransformError::permanent("refused"), 1, 0),
        dead_lettered: false,
        fence: 0,
    };
    let small = Done {
        record: heavy.clone(),
        fate: Fate::Outputs(Outputs::none()),
    };
    let passed = Done {
        record: heavy.clone(),
        fate: Fate::Failed(Box::new(FailedFate {
            failure: failed,
            dead_letter: None,
            recorded: false,
        })),
    };
    let later = Instant::now() + Duration::from_secs(1);
    for anew in [Tried::Done(passed), waiting(0, later, HoldReason::Poison)] {
        let mut lane = Lane::new(SourcePartition::new("t", 0), Epoch(1), 0);
        assert!(lane.take_in(0, 1, std::slice::from_ref(&heavy)));
        lane.transformed(0, [Tried::Done(small.clone())]);
        let slice = lane.take_ready(9, 9999, usize::MAX).unwrap();
        lane.put_back(slice);
        lane.replace_first(anew);
        assert_eq!(
            lane.start_due(later).len(),
            usize::from(lane.transforming())
        );
        lane.retried(0, done(0));
        assert!(lane.take_ready(9, 9999, usize::MAX).is_some());
        assert_eq!((lane.bytes(), lane.tally()), (0, (0, 0)));
    }
}

#[test]
fn a_position_that_is_put_back_does_not_stand_in_for_the_records_after_it() {
    for behind in 0..6 {
        let mut lane = lane_of(7..9);
        for offset in 9..9 + behind {
            assert!(lane.take_in(offset, offset + 1, &[record(offset)]));
        }
        // A start that was to be remembered, and could not be committed.
        lane.put_back(UnitSlice {
            partition: SourcePartition::new("t", 0),
            epoch: Epoch(1),
            from: 7,
            next: 7,
            done: Vec::new(),
        });
        lane.transformed(7, (7..9).map(done));
        let taken: Vec<_> =
            std::iter::from_fn(|| lane.take_ready(100, usize::MAX, usize::MAX)).collect();
        let spans: Vec<_> = taken
            .iter()
            .map(|s| (s.from, s.next, s.done.len()))
            .collect();
        assert_eq!(spans, [(7, 7, 0), (7, 9, 2)]);
    }
}

#[test]
fn results_that_are_not_one_a_record_are_not_taken() {
    let mut lane = lane_of(0..3);
    lane.transformed(0, [done(0)]);
    assert!(lane.transforming());
    assert!(lane.take_ready(100, usize::MAX, usize::MAX).is_none());
}

#[test]
fn a_rewound_lane_lives_anew() {
    let mut lane = lane_of(0..3);
    let before = lane.life();
    lane.rewind(0);
    assert_ne!(lane.life(), before);
    assert!(!lane.transforming());
}

#[test]
fn outputs_are_bounded_whatever_the_records_weigh() {
    let with_outputs = |offset| {
        let mut outputs = Outputs::none();
        outputs.push(crate::output::Output::new(vec![0; 100]));
        Tried::Done(Done {
            record: record(offset),
            fate: Fate::Outputs(outputs),
        })
    };
    let mut lane = lane_of(0..9);
    lane.transformed(0, (0..9).map(with_outputs));
    let mut taken = Vec::new();
    while let Some(slice) = lane.take_ready(100, usize::MAX, 201) {
        taken.push(slice.done.len());
    }
    assert_eq!(taken, [3, 3, 3]);
}

#[test]
fn what_was_known_of_a_record_is_known_until_it_is_committed() {
    let now = Instant::now();
    let mut lane = lane_of(0..2);
    lane.transformed(0, [waiting(0, now, HoldReason::Poison), done(1)]);
    assert_eq!(lane.start_due(now).len(), 1);
    lane.retried(0, done(0));
    let slice = lane.take_ready(100, usize::MAX, usize::MAX).unwrap();
    lane.put_back(slice);
    assert_eq!(lane.tried_before(0).unwrap().in_a_row, 1);
    assert!(lane.tried_before(1).is_none());
    lane.committed(2);
    assert!(lane.tried_before(0).is_none());
}

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
