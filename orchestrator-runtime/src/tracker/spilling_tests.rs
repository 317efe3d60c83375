//! Tests of how journal entries are put into statements, and of the journal at LIGHTWEIGHT's service.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};

use orchestrator_core::Record;
use proptest::prelude::*;

use super::super::fake_store::{FakeStore, Mood, failed, identity, orders, passed, until};
use super::super::guarded::Guarded;
use super::super::health::LedgerHealth;
use super::super::{LedgerPlan, LedgerSettings};
use super::*;
use crate::config::Strategy;
use crate::metrics::LedgerMetrics;

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

async fn writer(store: &Arc<FakeStore>) -> Writer {
    let health = Arc::new(LedgerHealth::new(LedgerMetrics::new("test")));
    let guarded = Guarded::new(store.clone(), &LedgerSettings::default(), health.clone());
    guarded.prepare().await.unwrap();
    store.inner().statements.clear();
    Writer::new(guarded, identity(), health, 100, false)
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
    let rows: Vec<_> = [1, 2, 1, 3, 4, 4, 5, 6, 7].into_iter().map(row).collect();
    let offsets = |part: &[LedgerRow]| part.iter().map(|row| row.position.offset).collect();
    let parts: Vec<Vec<i64>> = distinct(&rows, 3).into_iter().map(offsets).collect();
    assert_eq!(parts, [vec![1, 2], vec![1, 3, 4], vec![4, 5, 6], vec![7]]);
}

#[test]
fn no_statement_spans_too_many_offsets() {
    let range = |(from, next)| OffsetRange {
        partition: SourcePartition::new("orders", 0),
        from,
        next,
    };
    let ranges: Vec<_> = [(0, 4), (4, 8), (8, 12), (20, 90), (90, 91)]
        .into_iter()
        .map(range)
        .collect();
    let sizes: Vec<_> = narrow(&ranges, 8).iter().map(|part| part.len()).collect();
    assert_eq!(sizes, [2, 1, 1, 1]);
}

fn lines_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let lines = paths.map(|path| match path.is_dir() {
        true => lines_below(&path),
        false => BufReader::new(std::fs::File::open(path).unwrap())
            .lines()
            .count(),
    });
    lines.sum()
}

/// Rows are in the journal, and their marks find no room there.
#[tokio::test(start_paused = true)]
async fn marks_that_find_no_room_in_the_journal_come_after_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let settings = LedgerSettings {
        spill_dir: Some(folder.path().to_owned()),
        spill_max_bytes: 20_000,
        strategy: Strategy::Lightweight,
        ..LedgerSettings::default()
    };
    let store = FakeStore::new();
    let plan = LedgerPlan::with_store(store.clone(), settings).unwrap();
    let ledger = plan.start(identity()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    store.set(Mood::Down);
    let offsets: Vec<i64> = (0..300).collect();
    let failures: Vec<_> = (0..300).map(|offset| failed(offset, 100)).collect();
    ledger.tracker.failed(&failures).await.unwrap();
    let journal = lines_below(folder.path());
    assert!((10..290).contains(&journal), "void: {journal}");
    ledger
        .tracker
        .committed(&passed(0, 300, &offsets))
        .await
        .unwrap();
    store.set(Mood::Up);
    until("all passed", || {
        let rows = store.summary();
        rows.len() == 300 && rows.iter().all(|row| row.ends_with("FAILED passed"))
    })
    .await;
    assert_eq!(ledger.health.as_ref().unwrap().counters().rows_dropped, 0);
}
