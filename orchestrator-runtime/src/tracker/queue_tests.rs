//! Tests of the queue: whatever happens to a record while it waits ends up in one entry.
#![allow(clippy::unwrap_used)]

use orchestrator_core::ledger_row::LedgerRow;
use proptest::prelude::*;

use super::super::fake_store::{failed, orders};
use super::*;

fn row(offset: i64, fence: i64) -> LedgerRow {
    LedgerRow::failed(&failed(offset, fence), true)
}

fn at(offset: i64) -> SourcePosition {
    orders().at(offset)
}

fn queue() -> Queue {
    Queue::new(4)
}

#[test]
fn a_row_takes_in_what_happens_to_its_record() {
    let mut queue = queue();
    queue.push_row(row(1, 5)).unwrap();
    queue.push_row(row(1, 4)).unwrap();
    assert_eq!(
        queue.take(9).rows[0].fence,
        5,
        "an older fence changes nothing"
    );
    queue.push_mark(&at(1), Mark::Passed, 77).unwrap();
    queue.push_row(row(1, 5)).unwrap();
    assert_eq!(
        queue.take(9).rows[0].passed_at_ms,
        Some(77),
        "a repeat does not undo it"
    );
    queue.push_row(row(1, 6)).unwrap();
    assert_eq!(
        queue.take(9).rows[0].passed_at_ms,
        None,
        "read again, failed again"
    );
    queue.push_mark(&at(1), Mark::Succeeded, 78).unwrap();
    let work = queue.take(9);
    assert!(work.rows.is_empty(), "a success needs no row of its own");
    assert_eq!(work.succeeded.positions, [at(1)]);
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn a_row_that_comes_back_takes_in_what_happened_meanwhile() {
    let mut queue = queue();
    let take_out = |queue: &mut Queue| {
        queue.push_row(row(1, 5)).unwrap();
        queue.take_all().0.remove(0)
    };
    let mut passed = take_out(&mut queue);
    queue.push_mark(&at(1), Mark::Passed, 77).unwrap();
    assert!(queue.catch_up(&mut passed));
    queue.push_row(passed).unwrap();
    assert_eq!(queue.take(9).rows[0].passed_at_ms, Some(77));

    let mut succeeded = take_out(&mut queue);
    queue.push_mark(&at(1), Mark::Succeeded, 78).unwrap();
    assert!(!queue.catch_up(&mut succeeded), "it needs no row any more");

    let mut neither = row(2, 5);
    assert!(queue.catch_up(&mut neither));
    assert_eq!(neither.passed_at_ms, None);
}

#[test]
fn an_entry_leaves_only_as_it_was_written() {
    let mut queue = queue();
    queue.push_row(row(1, 5)).unwrap();
    let work = queue.take(9);
    queue.push_mark(&at(1), Mark::Passed, 77).unwrap();
    queue.done(&at(1), work.row_versions[0]);
    let work = queue.take(9);
    assert_eq!(
        work.rows[0].passed_at_ms,
        Some(77),
        "passed while it was being written: once more"
    );
    queue.done(&at(1), work.row_versions[0]);
    assert!(queue.is_idle());
}

#[test]
fn rows_and_marks_are_bounded() {
    let mut queue = queue();
    for offset in 0..4 {
        queue.push_row(row(offset, 1)).unwrap();
    }
    assert_eq!(queue.push_row(row(9, 1)), Err(Full));
    queue.push_row(row(3, 2)).unwrap();
    queue.push_mark(&at(3), Mark::Passed, 1).unwrap();
    let marks = i64::try_from(MIN_MARKS).unwrap();
    for offset in 0..marks {
        queue.push_mark(&at(10 + offset), Mark::Passed, 1).unwrap();
    }
    assert_eq!(queue.push_mark(&at(10 + marks), Mark::Passed, 1), Err(Full));
    assert_eq!(queue.push_row(row(10, 1)), Err(Full));
    // Only one of them is of a record that was passed.
    assert_eq!(queue.abandon().len(), 1);
    assert!(queue.is_idle());
}

#[test]
fn memory_is_bounded_too() {
    let mut queue = Queue::new(1000);
    for offset in 0..100 {
        let mut row = row(offset, 1);
        row.payload = Some(vec![0; 1024 * 1024].into());
        queue.push_row(row).unwrap();
    }
    assert!(queue.bytes < MAX_BYTES + 100 * 2048);
    assert_eq!(queue.waiting(), 100);
    assert_eq!(
        queue
            .take(1000)
            .rows
            .iter()
            .filter(|row| row.payload.is_some())
            .count(),
        63
    );
}

#[test]
fn rows_of_a_partition_that_was_taken_away_wait_for_their_commit() {
    let now = Instant::now();
    let mut queue = queue();
    queue.push_row(row(1, 1)).unwrap();
    queue.push_row(row(2, 1)).unwrap();
    queue.push_mark(&at(3), Mark::Passed, 7).unwrap();
    queue.orphan(&[orders()], now);
    assert!(queue.take(9).rows.is_empty());
    assert_eq!(queue.take(9).passed.positions, [at(3)]);
    assert_eq!(queue.waiting(), 0);
    queue.push_mark(&at(2), Mark::Passed, 8).unwrap();
    assert_eq!(
        queue.take(9).rows[0].position,
        at(2),
        "its unit was committed all the same"
    );
    queue.forget_orphans(now + ORPHAN_KEPT);
    assert!(!queue.contains(&at(1)) && queue.contains(&at(2)));
}

proptest! {
    /// The counts are those of the entries, whatever happens.
    #[test]
    fn counts_stay_right(steps in prop::collection::vec((0..6u8, 0..8i64, 0..4i64), 0..100)) {
        let now = Instant::now();
        let mut queue = queue();
        for (what, offset, fence) in steps {
            match what {
                0 | 1 => drop(queue.push_row(row(offset, fence))),
                2 => drop(queue.push_mark(&at(offset), Mark::Passed, fence)),
                3 => drop(queue.push_mark(&at(offset), Mark::Succeeded, fence)),
                4 => queue.orphan(&[orders()], now),
                _ => {
                    let work = queue.take(3);
                    for (row, version) in work.rows.iter().zip(work.row_versions) {
                        queue.done(&row.position, version);
                    }
                }
            }
            let rows: Vec<_> = queue.entries.values().filter_map(|entry| match &entry.pending {
                Pending::Row(row) => Some(row.size()),
                Pending::Mark(..) => None,
            }).collect();
            prop_assert_eq!(queue.rows, rows.len());
            prop_assert_eq!(queue.bytes, rows.iter().sum::<usize>());
            prop_assert!(queue.rows <= 4 && queue.entries.len() <= 8);
        }
    }
}
