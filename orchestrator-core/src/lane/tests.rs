//! The lane by hand.

use std::time::Duration;

use super::*;
use crate::error::TransformError;
use crate::failure::{Failure, FailureRecord};
use crate::output::Outputs;
use crate::ports::{Done, FailedFate, Fate, UnitSlice};
use crate::record::Record;

pub(super) fn record(offset: i64) -> Record {
    Record::builder("t", 0, offset).value("v").build()
}

pub(super) fn done(offset: i64) -> Tried {
    Tried::Done(Done {
        record: record(offset),
        fate: Fate::Outputs(Outputs::none()),
    })
}

pub(super) fn waiting(offset: i64, due: Instant, reason: HoldReason) -> Tried {
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
            mark: None,
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

#[test]
fn what_was_known_of_a_record_that_is_given_out_outlives_a_shedding() {
    let now = Instant::now();
    let mut lane = lane_of(0..3);
    let wait = |offset| waiting(offset, now, HoldReason::RetryBackoff);
    lane.transformed(0, (0..3).map(wait));
    assert_eq!(lane.start_due(now).len(), 3);
    lane.retried(0, done(0));
    lane.retried(1, wait(1));
    lane.retried(2, done(2));
    let slice = lane.take_ready(100, usize::MAX, usize::MAX).unwrap();
    assert_eq!((slice.from, slice.next), (0, 1));
    lane.shed();
    assert!(lane.tried_before(0).is_some());
    assert!(lane.tried_before(2).is_none());
}
