//! Tests of the guard, in virtual time over a store in memory.
#![allow(clippy::unwrap_used)]

use super::super::fake_store::{FakeStore, Mood, failed, identity};
use super::super::health::DbState;
use super::*;
use crate::metrics::LedgerMetrics;

async fn guarded(store: &Arc<FakeStore>) -> (Guarded, Arc<LedgerHealth>) {
    let health = Arc::new(LedgerHealth::new(LedgerMetrics::new("test")));
    let guarded = Guarded::new(store.clone(), &LedgerSettings::default(), health.clone());
    guarded.prepare().await.unwrap();
    store.inner().statements.clear();
    (guarded, health)
}

async fn write(guarded: &Guarded) -> Result<(), StoreErrorClass> {
    let rows = [LedgerRow::failed(&failed(1, 1), true)];
    let written = guarded.upsert_failed(&identity(), &rows, 0).await;
    written.map_err(|error| error.class)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_a_store_that_is_not_ready() {
    let store = FakeStore::new();
    store.set(Mood::Down);
    let health = Arc::new(LedgerHealth::new(LedgerMetrics::new("test")));
    let guarded = Guarded::new(store.clone(), &LedgerSettings::default(), health.clone());
    assert!(guarded.prepare().await.is_err());
    for _ in 0..9 {
        assert_eq!(write(&guarded).await, Err(StoreErrorClass::Unavailable));
    }
    assert_eq!(store.inner().statements, ["prepare"]);
    assert!(matches!(health.state(), DbState::Degraded { reason } if reason.starts_with("down")));
    store.set(Mood::Up);
    guarded.prepare().await.unwrap();
    assert_eq!(health.state(), DbState::Up);
    assert_eq!(write(&guarded).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_statement_is_timed_out_and_five_in_a_row_open_the_circuit() {
    let store = FakeStore::new();
    let (guarded, health) = guarded(&store).await;
    store.set(Mood::Hanging);
    for _ in 0..5 {
        let started = Instant::now();
        assert_eq!(write(&guarded).await, Err(StoreErrorClass::Timeout));
        assert_eq!(started.elapsed(), Duration::from_millis(150));
    }
    assert_eq!(health.circuit(), CircuitState::Open);
    let started = Instant::now();
    assert_eq!(write(&guarded).await, Err(StoreErrorClass::Unavailable));
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(store.inner().statements.len(), 5);

    // The probe may take longer than a statement; it closes the circuit.
    store.set(Mood::Slow(Duration::from_millis(900)));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(write(&guarded).await, Ok(()));
    assert_eq!(
        (health.circuit(), health.state()),
        (CircuitState::Closed, DbState::Up)
    );
    assert_eq!(health.counters().statement_errors, 5);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_is_one_that_is_down() {
    let store = FakeStore::new();
    let (guarded, health) = guarded(&store).await;
    store.set(Mood::Panicking);
    assert!(guarded.prepare().await.is_err());
    for _ in 0..5 {
        assert_eq!(write(&guarded).await, Err(StoreErrorClass::Unavailable));
    }
    assert_eq!(health.circuit(), CircuitState::Open);
    assert!(
        matches!(health.state(), DbState::Degraded { reason } if reason.contains("panicked: planted"))
    );
    store.set(Mood::Up);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(write(&guarded).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn only_one_probe_is_let_through() {
    let store = FakeStore::new();
    let (guarded, _) = guarded(&store).await;
    store.set(Mood::Down);
    for _ in 0..5 {
        assert!(write(&guarded).await.is_err());
    }
    store.set(Mood::Hanging);
    tokio::time::advance(Duration::from_secs(10)).await;
    let probe = async { write(&guarded).await };
    let other = async {
        tokio::task::yield_now().await;
        write(&guarded).await
    };
    let results = tokio::join!(probe, other);
    assert_eq!(
        results,
        (
            Err(StoreErrorClass::Timeout),
            Err(StoreErrorClass::Unavailable)
        )
    );
    assert_eq!(store.inner().statements.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn refused_rows_never_open_the_circuit() {
    let store = FakeStore::new();
    let (guarded, health) = guarded(&store).await;
    store.set(Mood::Refusing(true));
    for _ in 0..20 {
        assert_eq!(write(&guarded).await, Err(StoreErrorClass::Data));
    }
    assert_eq!(
        (health.circuit(), health.state()),
        (CircuitState::Closed, DbState::Up)
    );
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_once_more() {
    let store = FakeStore::new();
    let (guarded, health) = guarded(&store).await;
    store.set(Mood::ConflictOnce);
    assert_eq!(write(&guarded).await, Ok(()));
    assert_eq!(health.counters().statement_errors, 0);
}

#[tokio::test(start_paused = true)]
async fn a_statement_given_up_by_its_caller_was_too_slow() {
    let store = FakeStore::new();
    let (guarded, health) = guarded(&store).await;
    store.set(Mood::Hanging);
    for _ in 0..5 {
        assert!(
            timeout(Duration::from_millis(10), write(&guarded))
                .await
                .is_err()
        );
    }
    assert_eq!(health.circuit(), CircuitState::Open);
}

#[test]
fn metrics_tell_of_all_this() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let scenario = async {
        let store = FakeStore::new();
        let (guarded, _health) = guarded(&store).await;
        assert_eq!(write(&guarded).await, Ok(()));
        store.set(Mood::Down);
        for _ in 0..5 {
            assert!(write(&guarded).await.is_err());
        }
    };
    metrics::with_local_recorder(&recorder, || runtime.block_on(scenario));
    let text = handle.render();
    for line in [
        r#"orch_db_circuit_open{pipeline="test"} 1"#,
        r#"orch_db_degraded{pipeline="test"} 1"#,
        r#"orch_db_errors_total{pipeline="test",class="unavailable"} 5"#,
        r#"orch_db_statement_seconds_count{pipeline="test",statement="upsert_failed"} 6"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
