//! Tests of the journal at LIGHTWEIGHT's service.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::sync::mpsc;

use orchestrator_core::breaker::CircuitState;
use orchestrator_core::ledger_row::LedgerRow;
use tempfile::TempDir;

use super::super::fake_store::{FakeStore, Mood, failed, identity, orders, passed, until, writer};
use super::super::{Ledger, LedgerPlan, LedgerSettings};
use super::*;
use crate::config::Strategy;

fn failure(offset: i64) -> Entry {
    Entry::Failed(Box::new(LedgerRow::failed(&failed(offset, 100), true)))
}

#[tokio::test]
async fn a_disk_that_does_not_answer_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = identity();
    let spill = Spill::open(folder.path(), &ledger, 1 << 20).await.unwrap();
    assert!(spill.append(vec![failure(1)]).await.is_empty());

    let (answer, answers) = mpsc::channel::<()>();
    let hanging = spill.clone();
    let hanging = tokio::spawn(async move {
        let work = move |_: &mut Journal| answers.recv().is_err();
        hanging.on_disk(work).await
    });
    let began = Instant::now();
    while lock(&spill.shared.busy).is_none() {
        tokio::task::yield_now().await;
    }
    // The first waits for it for a while, the others do not.
    for _ in 0..100 {
        assert_eq!(spill.append(vec![failure(2)]).await, [failure(2)]);
    }
    assert!(spill.is_stuck());
    assert!(began.elapsed() < 2 * PATIENCE, "{:?}", began.elapsed());

    drop(answer);
    assert!(hanging.await.unwrap().unwrap());
    assert!(spill.append(vec![failure(2)]).await.is_empty());
    let store = FakeStore::new();
    let writer = writer(&store).await;
    while spill.write_back(&writer).await.unwrap() == Back::Some {}
    assert_eq!(
        store.summary(),
        ["1 FAILED provisional", "2 FAILED provisional"]
    );
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

/// LIGHTWEIGHT with a journal of so many bytes, which is full before the database is back.
async fn with_a_small_journal(store: &Arc<FakeStore>, folder: &TempDir) -> Ledger {
    let settings = LedgerSettings {
        spill_dir: Some(folder.path().to_owned()),
        spill_max_bytes: 20_000,
        strategy: Strategy::Lightweight,
        ..LedgerSettings::default()
    };
    let plan = LedgerPlan::with_store(store.clone(), settings).unwrap();
    let ledger = plan.start(identity()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    ledger
}

async fn fail(ledger: &Ledger, offsets: Range<i64>) {
    let failures: Vec<_> = offsets.map(|offset| failed(offset, 100)).collect();
    ledger.tracker.failed(&failures).await.unwrap();
}

async fn pass(ledger: &Ledger, offsets: Range<i64>) {
    let failures: Vec<_> = offsets.clone().collect();
    let passed = passed(offsets.start, offsets.end, &failures);
    ledger.tracker.committed(&passed).await.unwrap();
}

fn all_passed(store: &FakeStore, rows: usize) -> bool {
    let summary = store.summary();
    summary.len() == rows && summary.iter().all(|row| row.ends_with("FAILED passed"))
}

/// Rows are in the journal, and their marks find no room there; others fail while the rows are written back.
#[tokio::test(start_paused = true)]
async fn marks_that_find_no_room_in_the_journal_come_after_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::new();
    let ledger = with_a_small_journal(&store, &folder).await;
    let health = ledger.health.as_ref().unwrap();
    store.set(Mood::Down);
    fail(&ledger, 0..300).await;
    let journal = lines_below(folder.path());
    assert!((10..290).contains(&journal), "void: {journal}");
    pass(&ledger, 0..300).await;
    store.set(Mood::Slow(Duration::from_millis(20)));
    until("it is back", || health.circuit() == CircuitState::Closed).await;
    assert!(!all_passed(&store, 300), "void: all is written back");
    fail(&ledger, 300..301).await;
    pass(&ledger, 300..301).await;
    until("all passed", || all_passed(&store, 301)).await;
    assert_eq!(health.counters().rows_dropped, 0);
}

/// The queue is full, too.
#[tokio::test(start_paused = true)]
async fn a_full_journal_is_tried_once_a_call() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::new();
    let ledger = with_a_small_journal(&store, &folder).await;
    store.set(Mood::Hanging);
    fail(&ledger, 0..12_000).await;
    let counters = ledger.health.as_ref().unwrap().counters();
    assert!(counters.rows_waiting >= 10_000, "void: {counters:?}");
    // The clock stands still.
    let began = std::time::Instant::now();
    fail(&ledger, 12_000..13_000).await;
    pass(&ledger, 0..13_000).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{began:?}");
}
