//! Tests of OUTBOX and RELIABLE, in virtual time over a store in memory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use orchestrator_core::breaker::CircuitState;
use orchestrator_core::{Record, Taken};
use tempfile::TempDir;
use tokio::time::sleep;

use super::super::background::FLUSH_LIMIT;
use super::super::fake_store::{FakeStore, Mood, failed, identity, orders, passed, until};
use super::super::health::{DbState, LedgerCounters};
use super::super::{Ledger, LedgerPlan, LedgerSettings};
use super::Notes;
use crate::config::Strategy;

fn settings(strategy: Strategy) -> LedgerSettings {
    LedgerSettings {
        strategy,
        queue_max_rows: 30,
        ..LedgerSettings::default()
    }
}

fn outbox() -> LedgerSettings {
    settings(Strategy::Outbox)
}

fn spilling(folder: &TempDir) -> LedgerSettings {
    LedgerSettings {
        spill_dir: Some(folder.path().to_owned()),
        ..outbox()
    }
}

async fn start(store: &Arc<FakeStore>, settings: LedgerSettings) -> Ledger {
    let plan = LedgerPlan::with_store(store.clone(), settings).unwrap();
    let ledger = plan.start(identity()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    ledger
}

fn taken(offsets: impl IntoIterator<Item = i64>) -> [Taken; 1] {
    let record = |offset| {
        let record = Record::builder("orders", 0, offset).key("k").value("v");
        record.timestamp_ms(1).build()
    };
    [Taken {
        records: offsets.into_iter().map(record).collect(),
        fence: 100,
    }]
}

fn counters(ledger: &Ledger) -> LedgerCounters {
    ledger.health.as_ref().unwrap().counters()
}

fn is_up(ledger: &Ledger) -> bool {
    ledger.health.as_ref().unwrap().state() == DbState::Up
}

fn lines(offsets: impl IntoIterator<Item = i64>, what: &str) -> Vec<String> {
    let line = |offset| format!("{offset} {what}");
    offsets.into_iter().map(line).collect()
}

/// Records `from..next` are taken, and passed as successes.
async fn whole(ledger: &Ledger, from: i64, next: i64) {
    ledger.tracker.received(&taken(from..next)).await.unwrap();
    ledger
        .tracker
        .committed(&passed(from, next, &[]))
        .await
        .unwrap();
}

async fn a_record_is_received_then_succeeds_or_fails(strategy: Strategy) {
    let store = FakeStore::new();
    let ledger = start(&store, settings(strategy)).await;
    assert!(ledger.tracker.notes_received());
    ledger.tracker.received(&taken(0..25)).await.unwrap();
    assert_eq!(store.summary(), lines(0..25, "RECEIVED provisional"));
    ledger.tracker.failed(&[failed(7, 100)]).await.unwrap();
    ledger.tracker.failed(&[failed(9, 100)]).await.unwrap();
    ledger
        .tracker
        .committed(&passed(0, 20, &[7]))
        .await
        .unwrap();
    let mut expected = lines(0..20, "SUCCESS passed");
    expected[7] = "7 FAILED passed".into();
    expected.extend(lines(20..25, "RECEIVED provisional"));
    until("successes told", || store.summary() == expected).await;
    assert!(store.inner().rows.values().nth(9).unwrap().resolved);
    assert!(is_up(&ledger));
    assert_eq!(counters(&ledger).rows_dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn outbox_notes_in_bulk() {
    a_record_is_received_then_succeeds_or_fails(Strategy::Outbox).await;
}

#[tokio::test(start_paused = true)]
async fn reliable_notes_one_by_one() {
    a_record_is_received_then_succeeds_or_fails(Strategy::Reliable).await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_statements_is_the_difference() {
    for (strategy, inserts) in [(Strategy::Outbox, 3), (Strategy::Reliable, 25)] {
        let store = FakeStore::new();
        let ledger = start(&store, settings(strategy)).await;
        ledger.tracker.received(&taken(0..25)).await.unwrap();
        let statements = store.inner().statements.clone();
        let made = statements.iter().filter(|name| **name == "insert_received");
        assert_eq!(made.count(), inserts, "{strategy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_taken_again_leave_one_row() {
    let store = FakeStore::new();
    let ledger = start(&store, outbox()).await;
    ledger.tracker.received(&taken(0..5)).await.unwrap();
    ledger.tracker.received(&taken(2..8)).await.unwrap();
    ledger.tracker.committed(&passed(0, 8, &[])).await.unwrap();
    until("all told", || {
        store.summary() == lines(0..8, "SUCCESS passed")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn records_taken_again_while_the_database_is_down_leave_one_row() {
    let store = FakeStore::new();
    let ledger = start(&store, outbox()).await;
    store.set(Mood::Down);
    ledger.tracker.received(&taken(0..10)).await.unwrap();
    // A rewind, and another one.
    ledger.tracker.received(&taken(4..12)).await.unwrap();
    ledger.tracker.received(&taken(4..12)).await.unwrap();
    ledger.tracker.committed(&passed(0, 12, &[])).await.unwrap();
    store.set(Mood::Up);
    until("all told", || {
        store.summary() == lines(0..12, "SUCCESS passed")
    })
    .await;
    until("well", || is_up(&ledger)).await;
}

#[tokio::test(start_paused = true)]
async fn with_the_database_down_rows_wait_and_those_without_room_are_counted_when_passed() {
    let store = FakeStore::new();
    let ledger = start(&store, outbox()).await;
    whole(&ledger, 0, 10).await;
    until("told", || store.summary() == lines(0..10, "SUCCESS passed")).await;
    store.set(Mood::Down);
    // What was tried is kept whatever the bound: nobody knows whether it was written.
    for n in 0..20 {
        whole(&ledger, 10 + 10 * n, 20 + 10 * n).await;
    }
    ledger.tracker.received(&taken(210..215)).await.unwrap();
    assert!(!is_up(&ledger));
    let dropped = counters(&ledger).rows_dropped;
    assert!(dropped > 100, "{dropped}");
    store.set(Mood::Up);
    until("caught up", || is_up(&ledger)).await;
    ledger.tracker.flush().await;
    let rows = store.summary();
    assert_eq!(rows.len() as u64 + dropped, 210, "{rows:?}");
    assert!(rows.iter().all(|row| row.ends_with("SUCCESS passed")));
    // A failure has its row even if it was not noted, and is not missing.
    ledger.tracker.failed(&[failed(212, 100)]).await.unwrap();
    ledger
        .tracker
        .committed(&passed(210, 215, &[212]))
        .await
        .unwrap();
    assert_eq!(counters(&ledger).rows_dropped, dropped + 4);
    until("passed", || {
        store.summary().last().unwrap() == "212 FAILED passed"
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_a_journal_no_row_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::new();
    let ledger = start(&store, spilling(&folder)).await;
    whole(&ledger, 0, 10).await;
    store.set(Mood::Down);
    ledger.tracker.received(&taken(10..300)).await.unwrap();
    let failures: Vec<_> = (100..200).map(|at| failed(at, 100)).collect();
    ledger.tracker.failed(&failures).await.unwrap();
    let at: Vec<i64> = (100..200).collect();
    ledger
        .tracker
        .committed(&passed(10, 250, &at))
        .await
        .unwrap();
    assert!(!is_up(&ledger));
    store.set(Mood::Up);
    let expected: Vec<_> = [
        lines(0..100, "SUCCESS passed"),
        lines(100..200, "FAILED passed"),
        lines(200..250, "SUCCESS passed"),
        lines(250..300, "RECEIVED provisional"),
    ]
    .concat();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(store.summary(), expected);
    until("well", || is_up(&ledger)).await;
    whole(&ledger, 250, 300).await;
    until("direct again", || {
        store.summary()[250..] == lines(250..300, "SUCCESS passed")
    })
    .await;
    assert_eq!(counters(&ledger).rows_dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn the_journal_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::new();
    {
        let ledger = start(&store, spilling(&folder)).await;
        store.set(Mood::Down);
        ledger.tracker.received(&taken(0..50)).await.unwrap();
        ledger.tracker.failed(&[failed(7, 100)]).await.unwrap();
        ledger
            .tracker
            .committed(&passed(0, 40, &[7]))
            .await
            .unwrap();
        ledger.tracker.flush().await;
        drop(ledger.tracker);
        assert_eq!(ledger.health.unwrap().counters().rows_dropped, 0);
    }
    store.set(Mood::Up);
    let ledger = start(&store, spilling(&folder)).await;
    let mut expected = lines(0..40, "SUCCESS passed");
    expected[7] = "7 FAILED passed".into();
    expected.extend(lines(40..50, "RECEIVED provisional"));
    until("written back", || store.summary() == expected).await;
    until("well", || is_up(&ledger)).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_slow_database_less_is_asked_at_a_time() {
    let store = FakeStore::new();
    store.inner().rows_per_statement = 1_000;
    let strict = LedgerSettings {
        degrade_dont_block: false,
        ..outbox()
    };
    let ledger = start(&store, strict).await;
    store.set(Mood::SlowRows(Duration::from_millis(1)));
    let records = taken(0..3_000);
    assert!(ledger.tracker.received(&records).await.is_err());
    ledger.tracker.received(&records).await.unwrap();
    assert_eq!(store.summary().len(), 3_000);
}

#[tokio::test(start_paused = true)]
async fn strictly_nothing_is_taken_that_is_not_noted() {
    let store = FakeStore::new();
    let strict = LedgerSettings {
        degrade_dont_block: false,
        ..outbox()
    };
    let ledger = start(&store, strict).await;
    store.set(Mood::Down);
    let error = ledger.tracker.received(&taken(0..5)).await.unwrap_err();
    assert!(error.message.contains("ORCH_DB_DEGRADE_DONT_BLOCK=false"));
    store.set(Mood::Up);
    until("noted", || store.inner().statements.len() < 100).await;
    sleep(Duration::from_secs(11)).await;
    whole(&ledger, 0, 5).await;
    until("told", || store.summary() == lines(0..5, "SUCCESS passed")).await;
    assert_eq!(counters(&ledger).rows_dropped, 0);
}

/// The circuit lets one statement through to see whether the database is back; those beside it are no reason to
/// break it off.
#[tokio::test(start_paused = true)]
async fn statements_at_once_do_not_keep_the_circuit_open() {
    for degrade_dont_block in [true, false] {
        let store = FakeStore::new();
        store.inner().connections = 4;
        let settings = LedgerSettings {
            degrade_dont_block,
            ..settings(Strategy::Reliable)
        };
        let ledger = start(&store, settings).await;
        ledger.tracker.received(&taken(0..20)).await.unwrap();
        store.set(Mood::Down);
        ledger.tracker.committed(&passed(0, 20, &[])).await.unwrap();
        until("open", || {
            ledger.health.as_ref().unwrap().circuit() != CircuitState::Closed
        })
        .await;
        store.set(Mood::Slow(Duration::from_millis(50)));
        if !degrade_dont_block {
            sleep(Duration::from_secs(11)).await;
            ledger.tracker.received(&taken(20..40)).await.unwrap();
            ledger
                .tracker
                .committed(&passed(20, 40, &[]))
                .await
                .unwrap();
        }
        let records = if degrade_dont_block { 20 } else { 40 };
        until("told", || {
            store.summary() == lines(0..records, "SUCCESS passed")
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_refused_is_written_bare() {
    let store = FakeStore::new();
    let all = LedgerSettings {
        store_payload: crate::config::StorePayload::All,
        ..outbox()
    };
    let ledger = start(&store, all).await;
    store.set(Mood::Refusing(false));
    whole(&ledger, 0, 5).await;
    until("told", || store.summary() == lines(0..5, "SUCCESS passed")).await;
    store.set(Mood::Refusing(true));
    whole(&ledger, 5, 7).await;
    assert_eq!(counters(&ledger).rows_dropped, 2);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_rows_of_passed_records_are_lost_and_counted() {
    let store = FakeStore::new();
    let ledger = start(&store, outbox()).await;
    store.set(Mood::Down);
    ledger.tracker.received(&taken(0..10)).await.unwrap();
    ledger.tracker.committed(&passed(0, 6, &[])).await.unwrap();
    ledger.tracker.flush().await;
    drop(ledger.tracker);
    assert_eq!(ledger.health.unwrap().counters().rows_dropped, 6);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_a_record_is_counted_once_whatever_rows_of_it_are_lost() {
    let store = FakeStore::new();
    let ledger = start(&store, outbox()).await;
    store.set(Mood::Down);
    ledger.tracker.received(&taken(0..10)).await.unwrap();
    let failures: Vec<_> = [2, 3, 7].map(|at| failed(at, 100)).into();
    ledger.tracker.failed(&failures).await.unwrap();
    let passed = passed(0, 6, &[2, 3]);
    ledger.tracker.committed(&passed).await.unwrap();
    ledger.tracker.flush().await;
    drop(ledger.tracker);
    assert_eq!(ledger.health.unwrap().counters().rows_dropped, 6);
}

#[tokio::test]
async fn what_is_on_its_way_to_the_journal_is_waited_for() {
    let notes = Notes::new((10, 1), 30, false);
    let turn = notes.turn.lock().await;
    assert_eq!(notes.first_untold(&orders()).now_or_never(), None);
    drop(turn);
    assert_eq!(notes.first_untold(&orders()).now_or_never(), Some(None));
}

/// The journal has no room at all: nothing is in it, and what waits, waits in memory.
#[tokio::test(start_paused = true)]
async fn a_journal_that_takes_nothing_keeps_nobody_from_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let settings = LedgerSettings {
        spill_max_bytes: 1,
        ..spilling(&folder)
    };
    let store = FakeStore::new();
    let ledger = start(&store, settings).await;
    store.set(Mood::Down);
    for from in 0..8 {
        whole(&ledger, from, from + 1).await;
    }
    let health = ledger.health.as_ref().unwrap();
    assert_eq!(health.circuit(), CircuitState::Open, "void");
    assert!(counters(&ledger).rows_waiting > 0, "void: none waits");
    let flushed = tokio::time::timeout(2 * FLUSH_LIMIT, ledger.tracker.flush());
    flushed.await.unwrap();
    store.set(Mood::Up);
    until("all is told", || {
        store.summary() == lines(0..8, "SUCCESS passed") && is_up(&ledger)
    })
    .await;
}
