//! Tests of LIGHTWEIGHT, in virtual time over a store in memory.
#![allow(clippy::unwrap_used)]

use super::super::fake_store::{FakeStore, Mood, failed, identity, orders, passed, until};
use super::super::health::{DbState, LedgerCounters};
use super::super::{Ledger, LedgerPlan, Strategy};
use tokio::time::sleep;

use super::super::background::FLUSH_LIMIT;
use super::*;

fn settings() -> LedgerSettings {
    LedgerSettings {
        strategy: Strategy::Lightweight,
        ..LedgerSettings::default()
    }
}

fn strict() -> LedgerSettings {
    LedgerSettings {
        degrade_dont_block: false,
        ..settings()
    }
}

async fn start(store: &Arc<FakeStore>, settings: &LedgerSettings) -> Ledger {
    let plan = LedgerPlan::with_store(store.clone(), settings.clone()).unwrap();
    plan.start(identity()).await
}

impl Ledger {
    fn counters(&self) -> LedgerCounters {
        self.health.as_ref().unwrap().counters()
    }

    fn state(&self) -> DbState {
        self.health.as_ref().unwrap().state()
    }
}

fn failures(offsets: impl IntoIterator<Item = i64>) -> Vec<FailureRecord> {
    offsets
        .into_iter()
        .map(|offset| failed(offset, 100))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_row_is_provisional_until_the_commit_passes_it() {
    let store = FakeStore::new();
    let ledger = start(&store, &settings()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    ledger.tracker.failed(&failures([3, 5])).await.unwrap();
    assert_eq!(
        store.summary(),
        ["3 FAILED provisional", "5 FAILED provisional"]
    );
    ledger.tracker.failed(&failures([3, 5])).await.unwrap();
    ledger.tracker.committed(&passed(0, 5, &[3])).await.unwrap();
    assert_eq!(store.summary(), ["3 FAILED passed", "5 FAILED provisional"]);
    ledger.tracker.committed(&passed(5, 9, &[])).await.unwrap();
    assert_eq!(
        store.summary(),
        ["3 FAILED passed", "5 SUCCESS passed"],
        "the unit was aborted, then it went well"
    );
    assert_eq!(ledger.state(), DbState::Up);
}

/// A database that is slow and well, and a unit with so many failures that the time of a call is not enough.
#[tokio::test(start_paused = true)]
async fn a_call_that_runs_out_of_time_counts_once() {
    let store = FakeStore::new();
    let ledger = start(&store, &settings()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    ledger.tracker.failed(&failures(0..300)).await.unwrap();
    store.set(Mood::Slow(Duration::from_millis(100)));
    let offsets: Vec<i64> = (0..300).collect();
    ledger
        .tracker
        .committed(&passed(0, 300, &offsets))
        .await
        .unwrap();
    let all_passed = || {
        let rows = store.summary();
        rows.iter().all(|row| row.ends_with("FAILED passed"))
    };
    assert!(!all_passed(), "void: in time");
    let errors = ledger.counters().statement_errors;
    assert!(errors <= 1, "{errors}");
    until("all passed", all_passed).await;
}

#[tokio::test(start_paused = true)]
async fn a_unit_without_failures_costs_no_statement() {
    let store = FakeStore::new();
    let ledger = start(&store, &settings()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    store.inner().statements.clear();
    for n in 0..100 {
        ledger
            .tracker
            .committed(&passed(n, n + 1, &[]))
            .await
            .unwrap();
    }
    assert!(store.inner().statements.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_owner_left_provisional_may_succeed() {
    let store = FakeStore::new();
    {
        let earlier = start(&store, &settings()).await;
        earlier
            .tracker
            .failed(&failures([2, 7, 8, 9]))
            .await
            .unwrap();
        earlier
            .tracker
            .committed(&passed(0, 3, &[2]))
            .await
            .unwrap();
    }
    let ledger = start(&store, &settings()).await;
    ledger.tracker.assigned(&[orders().at(3)]).await.unwrap();
    ledger.tracker.failed(&[failed(8, 200)]).await.unwrap();
    ledger.tracker.committed(&passed(3, 9, &[8])).await.unwrap();
    assert_eq!(
        store.summary(),
        [
            "2 FAILED passed",
            "7 SUCCESS passed",
            "8 FAILED passed",
            "9 FAILED provisional"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_zombie_writes_late_is_settled_too() {
    let store = FakeStore::new();
    let zombie = start(&store, &settings()).await;
    let ledger = start(&store, &settings()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    ledger.tracker.failed(&failures([4])).await.unwrap();
    ledger
        .tracker
        .committed(&passed(0, 10, &[4]))
        .await
        .unwrap();
    zombie
        .tracker
        .failed(&[failed(4, 50), failed(6, 50)])
        .await
        .unwrap();
    assert_eq!(store.summary(), ["4 FAILED passed", "6 FAILED provisional"]);
    until("settled", || {
        store.summary() == ["4 FAILED passed", "6 SUCCESS passed"]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn kafka_moves_on_while_the_database_hangs_and_the_rows_follow() {
    let store = FakeStore::new();
    let settings = settings();
    let ledger = start(&store, &settings).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    store.set(Mood::Hanging);
    for batch in 0..100 {
        let started = Instant::now();
        ledger.tracker.failed(&failures([batch * 2])).await.unwrap();
        ledger
            .tracker
            .committed(&passed(batch * 2, batch * 2 + 2, &[batch * 2]))
            .await
            .unwrap();
        assert!(
            started.elapsed() <= 2 * settings.batch_budget,
            "batch {batch}: {:?}",
            started.elapsed()
        );
        if batch > 10 {
            assert_eq!(started.elapsed(), Duration::ZERO, "not even by a probe");
            sleep(Duration::from_millis(700)).await;
        }
    }
    assert!(matches!(ledger.state(), DbState::Degraded { .. }));
    assert_eq!(ledger.counters().rows_waiting, 100);
    store.set(Mood::Up);
    until("back-filled", || ledger.counters().rows_waiting == 0).await;
    until("up", || ledger.state() == DbState::Up).await;
    assert_eq!(store.summary().len(), 100);
    assert!(
        store
            .summary()
            .iter()
            .all(|row| row.ends_with("FAILED passed")),
        "{:?}",
        store.summary()
    );
    assert_eq!(ledger.counters().rows_dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_pass_unrecorded_the_worker_is_told() {
    let store = FakeStore::new();
    let ledger = start(&store, &strict()).await;
    store.set(Mood::Down);
    let error = ledger.tracker.failed(&failures([1])).await.unwrap_err();
    assert!(
        error.message.contains("ORCH_DB_DEGRADE_DONT_BLOCK"),
        "{error}"
    );
    assert!(ledger.tracker.assigned(&[orders().at(0)]).await.is_err());
    store.set(Mood::Up);
    ledger.tracker.failed(&failures([1])).await.unwrap();
    ledger.tracker.committed(&passed(0, 2, &[1])).await.unwrap();
    assert_eq!(store.summary(), ["1 FAILED passed"]);
    assert_eq!(ledger.counters().rows_dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_what_it_must_and_counts_it() {
    let store = FakeStore::new();
    let settings = LedgerSettings {
        queue_max_rows: 5,
        ..settings()
    };
    let ledger = start(&store, &settings).await;
    // As long as the database is there, a small queue takes any number of rows.
    ledger.tracker.failed(&failures(0..100)).await.unwrap();
    assert_eq!(
        (store.summary().len(), ledger.counters().rows_dropped),
        (100, 0)
    );
    store.set(Mood::Down);
    ledger.tracker.failed(&failures(100..120)).await.unwrap();
    // A unit that was not committed is done again.
    ledger.tracker.failed(&failures(100..120)).await.unwrap();
    assert_eq!(ledger.counters().rows_dropped, 0);
    let all: Vec<i64> = (100..120).collect();
    let passed = passed(100, 120, &all);
    ledger.tracker.committed(&passed).await.unwrap();
    assert_eq!(ledger.counters().rows_dropped, 15);
    // That records were passed of which there is no row takes no room from those that have one.
    let earlier: Vec<i64> = (95..100).collect();
    let passed = self::passed(0, 100, &earlier);
    ledger.tracker.committed(&passed).await.unwrap();
    store.set(Mood::Up);
    until("back-filled", || store.summary().len() == 105).await;
    until("passed", || {
        let rows = store.summary();
        rows[95..].iter().all(|row| row.ends_with("FAILED passed"))
    })
    .await;

    // Strictly, nothing is dropped: the worker comes again.
    let store = FakeStore::new();
    let settings = LedgerSettings {
        queue_max_rows: 5,
        ..strict()
    };
    let ledger = start(&store, &settings).await;
    store.set(Mood::Down);
    assert!(ledger.tracker.failed(&failures(0..20)).await.is_err());
    store.set(Mood::Up);
    until("taken", || ledger.state() == DbState::Up).await;
    ledger.tracker.failed(&failures(0..20)).await.unwrap();
    assert_eq!(
        (store.summary().len(), ledger.counters().rows_dropped),
        (20, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_refused_is_written_bare_and_its_neighbours_whole() {
    let store = FakeStore::new();
    let ledger = start(&store, &settings()).await;
    store.set(Mood::Refusing(false));
    ledger.tracker.failed(&failures(0..3)).await.unwrap();
    assert_eq!(store.summary().len(), 3);
    assert!(
        store
            .inner()
            .rows
            .values()
            .all(|stored| stored.row.payload.is_none())
    );
    store.set(Mood::Refusing(true));
    ledger.tracker.failed(&failures(3..5)).await.unwrap();
    assert_eq!(ledger.counters().rows_dropped, 2);
    assert_eq!(ledger.counters().rows_waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_down_at_start_stops_nobody() {
    let store = FakeStore::new();
    store.set(Mood::Down);
    let ledger = start(&store, &settings()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    ledger.tracker.failed(&failures([1])).await.unwrap();
    ledger.tracker.committed(&passed(0, 2, &[1])).await.unwrap();
    assert!(matches!(ledger.state(), DbState::Degraded { .. }));
    store.set(Mood::Up);
    until("written", || store.summary() == ["1 FAILED passed"]).await;
    assert_eq!(store.inner().prepared, 1);
}

#[tokio::test(start_paused = true)]
async fn rows_found_late_are_not_mistaken_for_our_own() {
    let store = FakeStore::new();
    {
        let earlier = start(&store, &settings()).await;
        earlier.tracker.failed(&failures([1, 2])).await.unwrap();
    }
    store.set(Mood::Down);
    let ledger = start(&store, &settings()).await;
    ledger.tracker.assigned(&[orders().at(0)]).await.unwrap();
    ledger.tracker.failed(&[failed(2, 200)]).await.unwrap();
    ledger.tracker.committed(&passed(0, 9, &[2])).await.unwrap();
    store.set(Mood::Up);
    until("settled", || {
        store.summary() == ["1 SUCCESS passed", "2 FAILED passed"]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_partition_that_was_taken_away_are_the_new_owners() {
    let store = FakeStore::new();
    let ledger = start(&store, &settings()).await;
    store.set(Mood::Down);
    ledger.tracker.failed(&failures([1, 2])).await.unwrap();
    ledger.tracker.revoked(&[orders()]).await;
    ledger.tracker.committed(&passed(0, 2, &[1])).await.unwrap();
    store.set(Mood::Up);
    until("written", || store.summary() == ["1 FAILED passed"]).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(store.summary(), ["1 FAILED passed"]);
    assert_eq!(ledger.state(), DbState::Up);
}

#[tokio::test(start_paused = true)]
async fn the_last_flush_waits_for_the_database_but_not_for_ever() {
    let store = FakeStore::new();
    let ledger = start(&store, &settings()).await;
    store.set(Mood::Down);
    ledger.tracker.failed(&failures([1, 2])).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    let back = async {
        sleep(Duration::from_secs(2)).await;
        store.set(Mood::Up);
    };
    let started = Instant::now();
    tokio::join!(ledger.tracker.flush(), back);
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "it does not wait for the circuit"
    );
    assert_eq!(store.summary().len(), 2);

    store.set(Mood::Hanging);
    ledger.tracker.failed(&failures([3, 4])).await.unwrap();
    ledger.tracker.committed(&passed(3, 4, &[3])).await.unwrap();
    let started = Instant::now();
    ledger.tracker.flush().await;
    assert!(started.elapsed() < FLUSH_LIMIT + Duration::from_secs(2));
    assert_eq!(ledger.counters().rows_waiting, 2);
    // The other record is not passed: its row is not missing.
    drop(ledger.tracker);
    let counters = ledger.health.unwrap().counters();
    assert_eq!((counters.rows_waiting, counters.rows_dropped), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn payloads_are_kept_as_the_user_wants() {
    for (keep, kept) in [
        (StorePayload::None, false),
        (StorePayload::Failed, true),
        (StorePayload::All, true),
    ] {
        let store = FakeStore::new();
        let ledger = start(
            &store,
            &LedgerSettings {
                store_payload: keep,
                ..settings()
            },
        )
        .await;
        ledger.tracker.failed(&failures([1])).await.unwrap();
        let inner = store.inner();
        assert_eq!(
            inner.rows.values().next().unwrap().row.payload.is_some(),
            kept
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_does_not_take_a_failure_of_ours_for_a_success() {
    let store = FakeStore::new();
    let (tracker, _) = super::start(
        store.clone(),
        &settings(),
        LedgerMetrics::new("g"),
        identity(),
    )
    .await;
    tracker.assigned(&[orders().at(0)]).await.unwrap();
    tracker.failed(&failures([1])).await.unwrap();
    store.set(Mood::Down);
    tracker.committed(&passed(0, 2, &[1])).await.unwrap();
    store.set(Mood::Up);
    tracker.state.look(&orders().at(0)).await.unwrap();
    tracker.flush().await;
    assert_eq!(store.summary(), ["1 FAILED passed"]);
}
