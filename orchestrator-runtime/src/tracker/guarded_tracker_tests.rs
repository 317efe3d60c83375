//! Tests of the guard round a tracker of the application's own, in real time: its calls run on a thread of their own.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::super::fake_store::{failed, orders};
use super::*;
use crate::metrics::test_recorder;

/// How a tracker behaves.
#[derive(Clone, Default)]
enum Mood {
    #[default]
    Well,
    Refusing,
    Panicking,
    /// Panics before there is a future.
    PanickingAtOnce,
    Hanging,
    /// Blocks its thread until the sender is dropped.
    Blocking(Arc<Mutex<std::sync::mpsc::Receiver<()>>>),
}

#[derive(Clone, Default)]
struct Moody {
    mood: Arc<Mutex<Mood>>,
    taken: Arc<Mutex<Vec<i64>>>,
    /// Calls that have not ended.
    running: Arc<AtomicUsize>,
}

/// Without a backtrace, which may take longer to print than a call may take.
fn panic_quietly(text: &'static str) -> ! {
    std::panic::resume_unwind(Box::new(text))
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Moody {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn call<'a>(&self) -> BoxFuture<'a, Result<(), TrackerError>> {
        let mood = self.mood.lock().unwrap().clone();
        if matches!(mood, Mood::PanickingAtOnce) {
            panic_quietly("at once");
        }
        self.running.fetch_add(1, Relaxed);
        let running = Running(self.running.clone());
        Box::pin(async move {
            let _running = running;
            match mood {
                Mood::Well => Ok(()),
                Mood::Refusing => Err(TrackerError {
                    message: "no room".to_owned(),
                }),
                Mood::Panicking | Mood::PanickingAtOnce => panic_quietly("planted"),
                Mood::Hanging => std::future::pending().await,
                Mood::Blocking(until) => {
                    assert!(until.lock().unwrap().recv().is_err());
                    Ok(())
                }
            }
        })
    }
}

impl FailureTracker for Moody {
    fn assigned<'a>(&'a self, _: &'a [SourcePosition]) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.call()
    }

    fn revoked<'a>(&'a self, _: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
        let call = self.call();
        Box::pin(async { call.await.unwrap() })
    }

    fn notes_received(&self) -> bool {
        assert!(!matches!(*self.mood.lock().unwrap(), Mood::PanickingAtOnce));
        true
    }

    fn received<'a>(&'a self, _: &'a [Taken]) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.call()
    }

    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        let call = self.call();
        Box::pin(async {
            call.await?;
            let offsets = failures.iter().map(|failed| failed.record.offset());
            self.taken.lock().unwrap().extend(offsets);
            Ok(())
        })
    }

    fn committed<'a>(&'a self, _: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.call()
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        let call = self.call();
        Box::pin(async { call.await.unwrap() })
    }
}

const BUDGET: Duration = Duration::from_millis(300);
/// Much longer than a budget, much shorter than for ever.
const LIMIT: Duration = Duration::from_secs(60);

fn guarded(tracker: &Moody, strict: bool) -> (GuardedTracker, Arc<LedgerHealth>) {
    let settings = LedgerSettings {
        batch_budget: BUDGET,
        circuit_failure_threshold: 3,
        circuit_open: BUDGET,
        // An error comes in time however slow the machine is.
        timeout: LIMIT,
        degrade_dont_block: !strict,
        ..LedgerSettings::default()
    };
    let metrics = LedgerMetrics::new("g");
    start(Arc::new(tracker.clone()), &settings, metrics)
}

async fn fail(guarded: &GuardedTracker, offset: i64) -> Result<(), String> {
    let failures = [failed(offset, 1)];
    let taken = tokio::time::timeout(LIMIT, guarded.failed(&failures)).await;
    taken.unwrap().map_err(|error| error.message)
}

async fn until(what: impl Fn() -> bool) {
    tokio::time::timeout(LIMIT, async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_works_is_passed_on() {
    let tracker = Moody::default();
    let (guarded, health) = guarded(&tracker, true);
    assert!(guarded.notes_received());
    guarded.assigned(&[orders().at(0)]).await.unwrap();
    fail(&guarded, 3).await.unwrap();
    fail(&guarded, 4).await.unwrap();
    guarded.committed(&Passed::default()).await.unwrap();
    guarded.revoked(&[orders()]).await;
    guarded.flush().await;
    assert_eq!(*tracker.taken.lock().unwrap(), [3, 4]);
    assert_eq!(
        (health.state(), health.counters().rows_written),
        (DbState::Up, 2)
    );
}

/// What a tracker in this mood does to calls, in both policies.
async fn check(mood: Mood, says: &str) {
    let tracker = Moody::default();
    tracker.set(mood);
    let (lenient, health) = guarded(&tracker, false);
    assert_eq!(fail(&lenient, 1).await, Ok(()));
    assert_eq!(health.counters().rows_dropped, 1);
    match health.state() {
        DbState::Degraded { reason } => assert!(reason.contains(says), "{reason}"),
        state => panic!("{state:?}"),
    }
    assert!(lenient.committed(&Passed::default()).await.is_ok());
    // It is well again, and so is health.
    tracker.set(Mood::Well);
    assert_eq!(fail(&lenient, 2).await, Ok(()));
    assert_eq!(health.state(), DbState::Up);

    let (strict, health) = guarded(&tracker, true);
    tracker.set(Mood::Refusing);
    let refused = fail(&strict, 1).await.unwrap_err();
    assert!(
        refused.contains("no room") && refused.contains("are held"),
        "{refused}"
    );
    assert_eq!(health.counters().rows_dropped, 0);
}

#[tokio::test]
async fn an_error_is_a_warning_or_holds() {
    check(Mood::Refusing, "take failed records: no room").await;
}

#[tokio::test]
async fn a_panic_is_an_error() {
    check(Mood::Panicking, "it panicked: planted").await;
    check(Mood::PanickingAtOnce, "it panicked: at once").await;
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_and_ended() {
    check(
        Mood::Hanging,
        "longer than 300 ms (ORCH_DB_BATCH_BUDGET_MS)",
    )
    .await;
    let tracker = Moody::default();
    tracker.set(Mood::Hanging);
    let (guarded, _) = guarded(&tracker, true);
    let started = Instant::now();
    assert!(fail(&guarded, 1).await.is_err());
    assert!(guarded.assigned(&[]).await.is_err());
    guarded.revoked(&[]).await;
    assert!(started.elapsed() < LIMIT);
    // A flush may take longer; here its caller has had enough.
    drop(tokio::time::timeout(BUDGET, guarded.flush()).await);
    until(|| tracker.running.load(Relaxed) == 0).await;
}

/// Here on a runtime that has one thread only.
#[tokio::test]
async fn a_call_that_blocks_its_thread_stops_nobody() {
    let (release, blocked) = std::sync::mpsc::channel();
    let tracker = Moody::default();
    tracker.set(Mood::Blocking(Arc::new(Mutex::new(blocked))));
    let (guarded, health) = guarded(&tracker, false);
    for offset in 0..9 {
        assert_eq!(fail(&guarded, offset).await, Ok(()));
    }
    assert_eq!(health.circuit(), CircuitState::Open);
    assert_eq!(health.counters().rows_dropped, 9);
    tracker.set(Mood::Well);
    drop(release);
    until(|| guarded.breaker().state(now()) == CircuitState::HalfOpen).await;
    assert_eq!(fail(&guarded, 9).await, Ok(()));
    assert_eq!(health.state(), DbState::Up);
    // What nobody waits for any more was not even begun.
    assert!(tracker.taken.lock().unwrap().ends_with(&[9]));
    assert!(tracker.taken.lock().unwrap().len() <= 2);
}

#[tokio::test]
async fn calls_do_not_pile_up_behind_one_that_blocks() {
    let (release, blocked) = std::sync::mpsc::channel();
    let tracker = Moody::default();
    tracker.set(Mood::Blocking(Arc::new(Mutex::new(blocked))));
    let (guarded, _) = guarded(&tracker, true);
    let mut calls = FuturesUnordered::new();
    for _ in 0..MAX_CALLS + 9 {
        calls.push(guarded.assigned(&[]));
    }
    let mut busy = 0;
    while let Some(told) = calls.next().await {
        busy += usize::from(told.unwrap_err().message.contains("block its thread"));
    }
    assert!((8..=9).contains(&busy), "{busy}");
    drop(release);
}

#[tokio::test]
async fn an_error_that_comes_at_once_costs_nothing_and_leaves_the_circuit_closed() {
    let tracker = Moody::default();
    let (guarded, health) = guarded(&tracker, true);
    tracker.set(Mood::Refusing);
    for offset in 0..9 {
        assert!(
            fail(&guarded, offset)
                .await
                .unwrap_err()
                .contains("no room")
        );
    }
    assert_eq!(health.circuit(), CircuitState::Closed);
}

#[test]
fn one_that_keeps_failing_is_left_alone_and_tried_again() {
    let recorder = test_recorder();
    let rendered = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tracker = Moody::default();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let (guarded, health) = guarded(&tracker, true);
            tracker.set(Mood::Panicking);
            for offset in 0..3 {
                assert!(fail(&guarded, offset).await.is_err());
            }
            assert_eq!(health.circuit(), CircuitState::Open);
            tracker.set(Mood::Well);
            let refused = fail(&guarded, 3).await.unwrap_err();
            assert!(refused.contains("circuit open"), "{refused}");
            assert!(
                matches!(health.state(), DbState::Degraded { reason } if reason.contains("planted"))
            );
            until(|| guarded.breaker().state(now()) == CircuitState::HalfOpen).await;
            fail(&guarded, 4).await.unwrap();
            assert_eq!(
                (health.circuit(), health.state()),
                (CircuitState::Closed, DbState::Up)
            );
        });
    });
    let text = rendered.render();
    for line in [
        r#"orch_ledger_tracker_errors_total{pipeline="g",reason="panic"} 3"#,
        r#"orch_ledger_tracker_errors_total{pipeline="g",reason="circuit_open"} 1"#,
        r#"orch_db_circuit_open{pipeline="g"} 0"#,
    ] {
        assert!(text.lines().any(|it| it == line), "no `{line}` in\n{text}");
    }
}
