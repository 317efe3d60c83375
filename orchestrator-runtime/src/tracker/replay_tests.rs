//! Tests of how journal entries are put into statements.
#![allow(clippy::unwrap_used)]

use orchestrator_core::Record;
use proptest::prelude::*;

use super::super::fake_store::{FakeStore, failed, orders, writer};
use super::*;

fn received(offset: i64, fence: i64) -> Entry {
    let record = Record::builder("orders", 0, offset).timestamp_ms(1).build();
    Entry::Received(Box::new(LedgerRow::received(&record, fence, true)))
}

fn failure(offset: i64, fence: i64) -> Entry {
    Entry::Failed(Box::new(LedgerRow::failed(&failed(offset, fence), true)))
}

fn pass(offset: i64, at_ms: i64) -> Entry {
    let position = orders().at(offset);
    Entry::Passed { position, at_ms }
}

fn success(from: i64, next: i64, at_ms: i64) -> Entry {
    let partition = orders();
    let range = OffsetRange {
        partition,
        from,
        next,
    };
    Entry::Succeeded { range, at_ms }
}

/// What becomes of the store if these parts are written one after the other, and how many statements that takes.
fn written<'a>(parts: impl IntoIterator<Item = &'a [Entry]>) -> (Vec<String>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().unwrap();
    runtime.block_on(async {
        let store = FakeStore::new();
        let writer = writer(&store).await;
        for part in parts {
            write_wave(&writer, part).await.unwrap();
        }
        let statements = store.inner().statements.len();
        (store.summary(), statements)
    })
}

#[test]
fn records_one_after_the_other_share_statements() {
    let of_a_record = |offset: i64| {
        let at_ms = 100 + offset;
        [
            received(offset, 100),
            success(offset, offset + 1, at_ms),
            received(offset + 100, 100),
            failure(offset + 100, 100),
            pass(offset + 100, at_ms),
        ]
    };
    let entries: Vec<_> = (0..10).flat_map(of_a_record).collect();
    let (rows, statements) = written(waves(&entries));
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|row| row.ends_with(" passed")), "{rows:?}");
    // Ten rows are as many as a statement takes.
    assert_eq!(statements, 5);
}

#[test]
fn marks_that_are_far_apart_keep_their_time() {
    let apart = [pass(1, 100), pass(2, 1099), pass(3, 1100), pass(4, 200)];
    let sizes: Vec<_> = waves(&apart).iter().map(|wave| wave.len()).collect();
    assert_eq!(sizes, [2, 2]);
}

proptest! {
    #[test]
    fn waves_come_to_the_same_as_one_after_the_other(
        steps in prop::collection::vec((0..4, 0..6_i64, 1..4_i64, 0..300_i64), 1..40),
    ) {
        let mut now = 100;
        let mut entries = Vec::new();
        for (kind, offset, width, later) in steps {
            now += later;
            entries.push(match kind {
                0 => received(offset, now),
                1 => failure(offset, now),
                2 => pass(offset, now),
                _ => success(offset, offset + width, now),
            });
        }
        let waves = waves(&entries);
        prop_assert_eq!(waves.concat(), entries.clone());
        let (alone, _) = written(entries.chunks(1));
        prop_assert_eq!(written(waves).0, alone);
    }
}

#[test]
fn no_statement_has_two_rows_of_a_record() {
    let row = |offset| LedgerRow::failed(&failed(offset, 1), true);
    let rows: Vec<_> = [1, 2, 1, 3, 4, 4].into_iter().map(row).collect();
    let sizes = [0, 1, 2, 3, 4, 5].map(|from| distinct(&rows[from..], 3).len());
    assert_eq!(sizes, [2, 3, 3, 2, 1, 1]);
    assert!(distinct(&[], 3).is_empty());
}

#[test]
fn no_statement_spans_too_many_offsets() {
    let range = |(from, next)| OffsetRange {
        partition: orders(),
        from,
        next,
    };
    let ranges = [(0, 4), (4, 8), (8, 12), (20, 55), (90, 91), (100, 100_100)];
    let mut ranges: VecDeque<_> = ranges.into_iter().map(range).collect();
    let mut statements = Vec::new();
    while !ranges.is_empty() {
        let ends = |range: OffsetRange| (range.from, range.next);
        statements.push(
            narrow(&mut ranges, 8)
                .into_iter()
                .map(ends)
                .collect::<Vec<_>>(),
        );
    }
    let (few, many) = statements.split_at(7);
    let expected = [
        vec![(0, 4), (4, 8)],
        vec![(8, 12)],
        vec![(20, 28)],
        vec![(28, 36)],
        vec![(36, 44)],
        vec![(44, 55)],
        vec![(90, 91)],
    ];
    assert_eq!(few, expected);
    assert!(many.len() < 4000, "{}", many.len());
    let many = many.concat();
    assert!(many.is_sorted_by(|a, b| a.1 == b.0), "{many:?}");
    assert_eq!(many.last().map(|last| last.1), Some(100_100));
}
