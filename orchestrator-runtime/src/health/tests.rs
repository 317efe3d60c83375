//! The probes' decisions as tables, and the setters that feed them.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_core::SourcePartition;
use serde_json::json;

use super::*;
use crate::metrics::PipelineMetrics;

const STALL: Duration = Duration::from_secs(60);
const S: Duration = Duration::from_secs(1);

struct Bench {
    t0: Instant,
    health: Health,
    worker: WorkerHealth,
    orders: SourcePartition,
}

/// One running worker that owns `orders-3` from offset 42, with a broker that answers.
fn bench() -> Bench {
    let t0 = Instant::now();
    let health = Health::new(Arc::new(PipelineMetrics::new("g")), 1, STALL, t0);
    let worker = health.worker(0);
    let orders = SourcePartition::new("orders", 3);
    worker.state(WorkerState::Running);
    worker.assigned(&orders, 42);
    health.broker_reachable(t0);
    Bench {
        t0,
        health,
        worker,
        orders,
    }
}

fn held(reason: &'static str, since: Instant) -> HeldView {
    HeldView {
        reason,
        offset: 42,
        since,
        next_try: Some(since + 30 * S),
        attempts: 3,
        error: "no such customer".into(),
        remedy: Some(dead_letter_remedy(
            &SourcePartition::new("orders", 3).at(42),
        )),
        bytes: 300,
    }
}

/// After `happenings`, livez at `after` the start must say `alive`.
#[track_caller]
fn check_livez(what: &str, happenings: impl FnOnce(&Bench), after: Duration, alive: bool) {
    let bench = bench();
    happenings(&bench);
    let verdict = livez(&bench.health.snapshot(), bench.t0 + after);
    assert_eq!(verdict.ok(), alive, "{what}: {verdict:?}");
}

#[test]
fn livez_fails_only_for_what_a_restart_may_cure() {
    let taken = |b: &Bench| b.worker.taken(&b.orders, 50, b.t0);
    check_livez("idle for an hour", |_| {}, 3600 * S, true);
    check_livez("just taken", taken, 59 * S, true);
    check_livez("taken, never committed", taken, 60 * S, false);
    let steady = |b: &Bench| {
        taken(b);
        b.worker.committed(&b.orders, 46, b.t0 + 30 * S);
        b.worker.taken(&b.orders, 60, b.t0 + 40 * S);
    };
    check_livez("a part is committed", steady, 89 * S, true);
    check_livez("taking is no progress", steady, 90 * S, false);
    let caught_up = |b: &Bench| {
        taken(b);
        b.worker.committed(&b.orders, 50, b.t0);
    };
    check_livez("all is committed", caught_up, 3600 * S, true);
    let hold = |b: &Bench| {
        taken(b);
        b.worker.held(&b.orders, held("poison", b.t0), b.t0);
    };
    check_livez("held", hold, 3600 * S, true);
    let hold_and_commit = |b: &Bench| {
        hold(b);
        b.worker.committed(&b.orders, 45, b.t0 + S);
    };
    check_livez("held, prefix committed", hold_and_commit, 3600 * S, true);
    let release = |b: &Bench| {
        hold(b);
        b.worker.released(&b.orders, b.t0 + 3600 * S);
    };
    check_livez("just released", release, 3659 * S, true);
    check_livez("released, no progress", release, 3660 * S, false);
    let revoke = |b: &Bench| {
        taken(b);
        b.worker.revoked(&b.orders);
        b.worker.taken(&b.orders, 99, b.t0);
    };
    check_livez("revoked, and a late report", revoke, 3600 * S, true);
    let rewind = |b: &Bench| {
        taken(b);
        b.worker.rewound(&b.orders, 42, b.t0);
    };
    check_livez("rewound, nothing taken since", rewind, 3600 * S, true);
}

#[test]
fn a_broker_outage_stops_the_stall_clock() {
    let outage = |b: &Bench| {
        b.worker.taken(&b.orders, 50, b.t0);
        b.health.broker_unreachable("refused", b.t0 + 10 * S);
    };
    check_livez("broker away", outage, 3600 * S, true);
    let back = |b: &Bench| {
        outage(b);
        b.health.broker_reachable(b.t0 + 600 * S);
        b.health.broker_reachable(b.t0 + 630 * S);
    };
    check_livez("broker just back", back, 659 * S, true);
    check_livez("broker back, no progress", back, 660 * S, false);
}

#[test]
fn livez_knows_dead_workers_and_silent_poll_threads() {
    let polled = |b: &Bench| b.worker.polled(b.t0 + S);
    check_livez("polled", polled, 60 * S, true);
    check_livez("poll thread silent", polled, 61 * S, false);
    let drain = |b: &Bench| {
        polled(b);
        b.worker.taken(&b.orders, 50, b.t0);
        b.worker.state(WorkerState::Draining);
    };
    check_livez("draining has its own limit", drain, 3600 * S, true);
    let state = |state: WorkerState| move |b: &Bench| b.worker.state(state);
    let why = || String::from("x");
    let starting = WorkerState::Starting {
        waits_for: "broker (ORCH_BOOTSTRAP_SERVERS)".into(),
    };
    check_livez("starting", state(starting), 3600 * S, true);
    let stopped = WorkerState::Stopped { why: why() };
    check_livez("stopped", state(stopped), 3600 * S, true);
    check_livez("died", state(WorkerState::Died { why: why() }), S, false);
}

#[test]
fn readyz_wants_every_worker_in_the_group() {
    let metrics = Arc::new(PipelineMetrics::new("g"));
    let health = Health::new(metrics, 2, STALL, Instant::now());
    health.worker(0).state(WorkerState::Running);
    health.worker(1).state(WorkerState::Starting {
        waits_for: "broker (ORCH_BOOTSTRAP_SERVERS)".into(),
    });
    let verdict = readyz(&health.snapshot());
    assert!(!verdict.ok());
    assert_eq!(
        verdict.checks[1].detail,
        "starting, waits for broker (ORCH_BOOTSTRAP_SERVERS)"
    );
    health.worker(1).state(WorkerState::Running);
    assert!(readyz(&health.snapshot()).ok(), "without any partition");
    health.worker(0).state(WorkerState::Draining);
    assert!(!readyz(&health.snapshot()).ok());
}

#[track_caller]
fn check_status(what: &str, happenings: impl FnOnce(&Bench), status: &str) {
    let bench = bench();
    happenings(&bench);
    let (not_down, report) = health(&bench.health.snapshot(), bench.t0 + 100 * S, false);
    assert_eq!(report["status"], status, "{what}: {report:#}");
    assert_eq!(not_down, status != "DOWN", "{what}");
}

#[test]
fn the_worst_component_is_the_status() {
    check_status("all well", |_| {}, "UP");
    let degraded = LedgerState::Degraded {
        reason: "database away".into(),
    };
    check_status("ledger", |b| b.health.ledger(degraded), "DEGRADED");
    let hold = |b: &Bench| b.worker.held(&b.orders, held("poison", b.t0), b.t0);
    check_status("held", hold, "DEGRADED");
    check_status("hung", |b| b.worker.hung(2), "DEGRADED");
    let draining = |b: &Bench| b.worker.state(WorkerState::Draining);
    check_status("draining", draining, "DEGRADED");
    let away = |b: &Bench| b.health.broker_unreachable("refused", b.t0);
    check_status("broker", away, "DOWN");
    let stalled = |b: &Bench| b.worker.taken(&b.orders, 50, b.t0);
    check_status("stalled", stalled, "DOWN");
    let died = WorkerState::Died { why: "x".into() };
    check_status("died", |b| b.worker.state(died), "DOWN");
}

#[test]
fn a_held_partition_is_listed_with_what_frees_it() {
    let bench = bench();
    bench
        .worker
        .held(&bench.orders, held("poison", bench.t0), bench.t0);
    bench.worker.to_the_end(&bench.orders, 7);
    let (_, report) = health(&bench.health.snapshot(), bench.t0 + 10 * S, false);
    assert_eq!(
        report["components"]["partitions"],
        json!({"status": "DEGRADED", "details": {
            "owned": 1, "lag": 7, "stalled_count": 0, "stalled": [], "held_count": 1,
            "held": [{
                "topic": "orders", "partition": 3, "offset": 42, "reason": "poison",
                "held_for_seconds": 10.0, "next_try_in_seconds": 20.0, "attempts": 3,
                "error": "no such customer", "remedy": "ORCH_DEAD_LETTER_RECORDS=orders:3:42",
                "bytes": 300,
            }],
        }})
    );
    let (_, verbose) = health(&bench.health.snapshot(), bench.t0, true);
    let list = &verbose["components"]["partitions"]["details"]["list"];
    assert_eq!(list[0]["next_offset"], 42);
    assert_eq!(list[0]["held"], "poison");
}

#[test]
fn lists_and_texts_are_bounded() {
    let bench = bench();
    for number in 0..500 {
        let partition = SourcePartition::new("many", number);
        let mut hold = held("poison", bench.t0);
        hold.error = "ö".repeat(5_000);
        bench.worker.assigned(&partition, 0);
        bench.worker.held(&partition, hold, bench.t0);
    }
    let (_, report) = health(&bench.health.snapshot(), bench.t0, false);
    let details = &report["components"]["partitions"]["details"];
    assert_eq!(details["held_count"], 500);
    assert_eq!(details["held"].as_array().unwrap().len(), 100);
    assert!(report.to_string().len() < 300_000);
}

#[test]
fn the_gauges_follow_the_reports() {
    let recorder = crate::metrics::test_recorder();
    let handle = recorder.handle();
    ::metrics::with_local_recorder(&recorder, || {
        let b = bench();
        let holds = |reason, value: u32| {
            let line =
                format!("orch_held_partitions{{pipeline=\"g\",reason=\"{reason}\"}} {value}");
            let text = handle.render();
            assert!(text.lines().any(|it| it == line), "no {line} in {text}");
        };
        b.worker.to_the_end(&b.orders, 9);
        b.worker.held(&b.orders, held("retry", b.t0), b.t0);
        b.worker.held(&b.orders, held("retry", b.t0), b.t0);
        holds("retry", 1);
        b.worker.held(&b.orders, held("poison", b.t0), b.t0);
        holds("retry", 0);
        holds("poison", 1);
        b.worker.hung(2);
        b.worker.hung(1);
        let text = handle.render();
        assert!(text.contains(r#"orch_held_bytes{pipeline="g"} 300"#));
        assert!(text.contains(r#"orch_transform_hung{pipeline="g"} 1"#));
        assert!(text.contains(r#"topic="orders",partition="3"} 9"#));
        b.worker.state(WorkerState::Died { why: "x".into() });
        holds("poison", 0);
        let text = handle.render();
        assert!(text.contains(r#"orch_held_bytes{pipeline="g"} 0"#));
        assert!(text.contains(r#"topic="orders",partition="3"} 0"#));
    });
}

#[test]
fn a_worker_that_starts_anew_owns_nothing() {
    let bench = bench();
    bench
        .worker
        .held(&bench.orders, held("poison", bench.t0), bench.t0);
    bench.worker.state(WorkerState::Starting {
        waits_for: "restart".into(),
    });
    let snapshot = bench.health.snapshot();
    assert!(snapshot.workers[0].partitions.is_empty());
}

#[test]
fn only_a_worker_that_runs_drains() {
    let bench = bench();
    bench.worker.draining();
    assert!(!readyz(&bench.health.snapshot()).ok());
    let stopped = WorkerState::Stopped { why: "x".into() };
    bench.worker.state(stopped.clone());
    bench.worker.draining();
    assert_eq!(bench.health.snapshot().workers[0].state, stopped);
}

/// The ledger is asked each time, not told of once.
#[tokio::test]
async fn the_ledgers_own_health_is_shown_with_what_it_counts() {
    use crate::tracker::fake_store::{FakeStore, Mood, failed, identity};
    use crate::tracker::{Ledger, LedgerPlan, LedgerSettings};

    let store = FakeStore::new();
    let settings = LedgerSettings {
        strategy: crate::config::Strategy::Lightweight,
        ..LedgerSettings::default()
    };
    let plan = LedgerPlan::with_store(store.clone(), settings).unwrap();
    let Ledger { tracker, health } = plan.start(identity()).await;
    let bench = bench();
    bench.health.watch_ledger(health.unwrap());
    let shown = || report(&bench.health)["components"]["ledger"].clone();
    tracker.failed(&[failed(1, 1)]).await.unwrap();
    assert_eq!(
        shown(),
        json!({"status": "UP", "details": {
            "rows_written": 1, "rows_waiting": 0, "rows_dropped": 0, "statement_errors": 0,
        }})
    );
    store.set(Mood::Down);
    tracker.failed(&[failed(2, 1)]).await.unwrap();
    let shown = shown();
    assert_eq!(shown["status"], "DEGRADED");
    assert_eq!(shown["details"]["rows_waiting"], 1);
    let reason = shown["details"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("down"), "{reason}");
}

fn report(health: &Health) -> serde_json::Value {
    super::health(&health.snapshot(), Instant::now(), false).1
}
