//! A failure tracker of the application's own, under guard: whatever it does, Kafka and a drain go on. Its calls run on
//! a thread of their own, so that one that blocks stops nobody else; each is timed out, panics are caught, and a circuit
//! breaker leaves a tracker alone that hangs or breaks down again and again. Driven by the worker; it must never wait
//! longer than a call may take.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use orchestrator_core::breaker::{Breaker, BreakerSettings, CallOutcome, CircuitState, Permit};
use orchestrator_core::judge::panic_text;
use orchestrator_core::{
    BoxFuture, FailureRecord, FailureTracker, Passed, SourcePartition, SourcePosition, Taken,
    TrackerError,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::LedgerSettings;
use super::background::FLUSH_LIMIT;
use super::drops::{DropReason, Drops};
use super::health::{DbState, LedgerHealth};
use crate::metrics::LedgerMetrics;

/// So many calls wait for the thread at the most: two for each worker, at their greatest number.
const MAX_CALLS: usize = 128;

/// It said no.
const ERROR: &str = "error";
/// It was not asked.
const CIRCUIT_OPEN: &str = "circuit_open";

type Call = BoxFuture<'static, ()>;

/// See the module.
pub(super) struct GuardedTracker {
    tracker: Arc<dyn FailureTracker>,
    calls: mpsc::Sender<Call>,
    notes_received: bool,
    budget: Duration,
    /// An error that comes within this time costs nobody anything.
    quick: Duration,
    strict: bool,
    breaker: Mutex<Breaker>,
    health: Arc<LedgerHealth>,
    drops: Drops,
}

/// Why a call did not work.
struct Trouble {
    /// Few and fixed, since it is a metric's label.
    reason: &'static str,
    message: String,
}

/// Puts `tracker` under guard. Needs a tokio runtime, which the tracker's calls find themselves in.
pub(super) fn start(
    tracker: Arc<dyn FailureTracker>,
    settings: &LedgerSettings,
    metrics: LedgerMetrics,
) -> (GuardedTracker, Arc<LedgerHealth>) {
    let health = Arc::new(LedgerHealth::new(metrics));
    let (calls, waiting) = mpsc::channel(MAX_CALLS);
    let runtime = Handle::current();
    let serving = std::thread::Builder::new()
        .name("orch-tracker".to_owned())
        .spawn(move || runtime.block_on(serve(waiting)));
    match serving {
        Ok(_) => health.statement_worked(CircuitState::Closed),
        // Every call finds it missing.
        Err(error) => tracing::error!(%error, "no thread can be started for the failure tracker"),
    }
    let asked = std::panic::catch_unwind(AssertUnwindSafe(|| tracker.notes_received()));
    let guarded = GuardedTracker {
        tracker,
        calls,
        notes_received: asked.unwrap_or_default(),
        budget: settings.batch_budget,
        quick: settings.timeout,
        strict: !settings.degrade_dont_block,
        breaker: Mutex::new(Breaker::new(BreakerSettings {
            failure_threshold: settings.circuit_failure_threshold,
            open_for: settings.circuit_open,
            slow_after: settings.batch_budget,
            probe_deadline: settings.batch_budget,
        })),
        health: health.clone(),
        drops: Drops::new(),
    };
    (guarded, health)
}

/// Runs calls until nobody can make any.
async fn serve(mut calls: mpsc::Receiver<Call>) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            call = calls.recv() => match call {
                Some(call) => running.push(call),
                None => return,
            },
            Some(()) = running.next() => {}
        }
    }
}

impl FailureTracker for GuardedTracker {
    fn assigned<'a>(
        &'a self,
        starts: &'a [SourcePosition],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        let (tracker, starts) = (self.tracker.clone(), starts.to_vec());
        Box::pin(async move {
            let call = async move { tracker.assigned(&starts).await };
            let told = self.run(self.budget, call).await;
            self.verdict(told, "take new partitions")
        })
    }

    fn revoked<'a>(&'a self, partitions: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
        let (tracker, partitions) = (self.tracker.clone(), partitions.to_vec());
        Box::pin(async move {
            let call = async move {
                tracker.revoked(&partitions).await;
                Ok(())
            };
            let told = self.run(self.budget, call).await;
            self.note(&told, "let go of partitions");
        })
    }

    fn notes_received(&self) -> bool {
        self.notes_received
    }

    fn received<'a>(&'a self, taken: &'a [Taken]) -> BoxFuture<'a, Result<(), TrackerError>> {
        let (tracker, taken) = (self.tracker.clone(), taken.to_vec());
        Box::pin(async move {
            let call = async move { tracker.received(&taken).await };
            let noted = self.run_if_closed(call).await;
            self.verdict(noted, "note records")
        })
    }

    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        let (tracker, theirs) = (self.tracker.clone(), failures.to_vec());
        Box::pin(async move {
            let call = async move { tracker.failed(&theirs).await };
            let taken = self.run_if_closed(call).await;
            if taken.is_ok() {
                self.health.rows_written(failures.len());
            } else if !self.strict {
                for failed in failures {
                    let dedup_key = failed.record.dedup_key();
                    let (health, key) = (&self.health, dedup_key.as_str());
                    self.drops.drop_row(health, DropReason::Tracker, key);
                }
            }
            self.verdict(taken, "take failed records")
        })
    }

    fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        let (tracker, passed) = (self.tracker.clone(), passed.clone());
        Box::pin(async move {
            let call = async move { tracker.committed(&passed).await };
            let noted = self.run_if_closed(call).await;
            self.drops.sum_up_old();
            self.verdict(noted, "note which records were passed")
        })
    }

    /// Whoever calls this times it out, after what is left of the drain.
    fn flush(&self) -> BoxFuture<'_, ()> {
        let tracker = self.tracker.clone();
        Box::pin(async move {
            let call = async move {
                tracker.flush().await;
                Ok(())
            };
            let flushed = self.run(FLUSH_LIMIT, call).await;
            self.note(&flushed, "write out what waits");
        })
    }
}

impl GuardedTracker {
    /// A call, unless the circuit is open.
    async fn run_if_closed(
        &self,
        call: impl Future<Output = Result<(), TrackerError>> + Send + 'static,
    ) -> Result<(), Trouble> {
        let Some(permit) = self.breaker().try_call(now()) else {
            return Err(Trouble {
                reason: CIRCUIT_OPEN,
                message: "it keeps failing and is left alone for a while (circuit open)".to_owned(),
            });
        };
        let started = Instant::now();
        let result = self.run(self.budget, call).await;
        let outcome = match &result {
            Ok(()) => CallOutcome::Ok,
            // An answer like any other.
            Err(Trouble { reason, .. }) if *reason == ERROR && started.elapsed() <= self.quick => {
                CallOutcome::DataError
            }
            Err(_) => CallOutcome::Failed,
        };
        self.report(permit, outcome);
        result
    }

    /// A call on the tracker's thread. It is given up, there too, when its time is over or nobody waits for it any more.
    async fn run(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<(), TrackerError>> + Send + 'static,
    ) -> Result<(), Trouble> {
        let (mut done, answer) = oneshot::channel();
        let call = async move {
            tokio::select! {
                biased;
                () = done.closed() => {}
                result = AssertUnwindSafe(call).catch_unwind() => drop(done.send(result)),
            }
        };
        let trouble = |reason, message| Err(Trouble { reason, message });
        if self.calls.try_send(Box::pin(call)).is_err() {
            let message = "earlier calls have not come back: does it block its thread?";
            return trouble("busy", message.to_owned());
        }
        match timeout(limit, answer).await {
            Ok(Ok(Ok(result))) => result.or_else(|error| trouble(ERROR, error.message)),
            Ok(Ok(Err(panic))) => trouble("panic", format!("it panicked: {}", panic_text(&*panic))),
            Ok(Err(_)) => trouble("panic", "its thread has ended".to_owned()),
            Err(_) => {
                let limit = limit.as_millis();
                let message = format!("it took longer than {limit} ms (ORCH_DB_BATCH_BUDGET_MS)");
                trouble("timeout", message)
            }
        }
    }

    fn report(&self, permit: Permit, outcome: CallOutcome) {
        let mut breaker = self.breaker();
        let before = breaker.state(now());
        breaker.report(permit, outcome, now());
        let after = breaker.state(now());
        drop(breaker);
        match (before, after) {
            (CircuitState::Closed, CircuitState::Open) => {
                tracing::error!("the failure tracker's circuit has opened");
            }
            (CircuitState::HalfOpen, CircuitState::Closed) => {
                tracing::info!("the failure tracker's circuit has closed: it works again");
            }
            _ => {}
        }
    }

    /// Tells health and metrics how a call ended, and the log of the first that did not work.
    fn note(&self, result: &Result<(), Trouble>, what: &str) {
        let circuit = self.breaker().state(now());
        let Err(Trouble { reason, message }) = result else {
            self.health.statement_worked(circuit);
            return;
        };
        self.health.metrics().tracker_failed(reason);
        if *reason == CIRCUIT_OPEN {
            return;
        }
        let was_well = self.health.state() == DbState::Up;
        let message = format!("the failure tracker could not {what}: {message}");
        if was_well {
            tracing::error!("{message}");
        }
        self.health.statement_failed(circuit, message);
    }

    /// Trouble is the caller's only where nothing may pass unrecorded.
    fn verdict(&self, result: Result<(), Trouble>, what: &str) -> Result<(), TrackerError> {
        self.note(&result, what);
        match result {
            Err(Trouble { message, .. }) if self.strict => Err(TrackerError {
                message: format!(
                    "the failure tracker could not {what}: {message}; partitions are held until it can \
                     (ORCH_DB_DEGRADE_DONT_BLOCK=false)"
                ),
            }),
            _ => Ok(()),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GuardedTracker {
    fn drop(&mut self) {
        self.drops.sum_up();
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
#[path = "guarded_tracker_tests.rs"]
mod tests;
