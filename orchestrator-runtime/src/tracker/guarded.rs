//! A store with a time-out, a circuit breaker and metrics round each statement; a panic is an error like others. Every
//! strategy writes through it.
//! It must never wait longer than a statement may take, nor let a call through that the breaker refuses.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::FutureExt;
use orchestrator_core::breaker::{Breaker, BreakerSettings, CallOutcome, CircuitState, Permit};
use orchestrator_core::judge::panic_text;
use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, Provisional, ReceivedPage, Settlement,
    SourcePosition, StoreError, StoreErrorClass, StoreFuture,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::LedgerSettings;
use super::health::LedgerHealth;
use super::pace::Pace;

/// Connecting and migrating may take longer than a statement, and nobody waits for it.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);
/// The least time a probe gets: a database that has just come back is slow at first.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Guarded {
    store: Arc<dyn FailureStore>,
    timeout: Duration,
    breaker: Mutex<Breaker>,
    ready: AtomicBool,
    pace: Mutex<Pace>,
    health: Arc<LedgerHealth>,
}

impl Guarded {
    pub(super) fn new(
        store: Arc<dyn FailureStore>,
        settings: &LedgerSettings,
        health: Arc<LedgerHealth>,
    ) -> Self {
        let breaker = Breaker::new(BreakerSettings {
            failure_threshold: settings.circuit_failure_threshold,
            open_for: settings.circuit_open,
            slow_after: settings.timeout,
            probe_deadline: PROBE_TIMEOUT.max(settings.timeout),
        });
        let pace = Pace::full(store.rows_per_statement().max(1), settings.timeout);
        Self {
            store,
            timeout: settings.timeout,
            breaker: Mutex::new(breaker),
            ready: AtomicBool::new(false),
            pace: Mutex::new(pace),
            health,
        }
    }

    /// Whether statements are let through without being probes.
    pub(super) fn is_flowing(&self) -> bool {
        self.is_ready() && self.circuit() == CircuitState::Closed
    }

    /// Whether the store was prepared.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Why the next statement would not even be tried, if so.
    pub(super) fn refusal(&self) -> Option<StoreError> {
        if !self.is_ready() {
            return Some(not_ready());
        }
        let refused = self.retry_at().is_some_and(|at| Instant::now() < at);
        refused.then(circuit_open)
    }

    /// When the breaker lets the next call through, if it does not now.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.breaker().retry_at().map(Instant::from_std)
    }

    /// Lets the next call through as a probe.
    pub(super) fn probe_now(&self) {
        self.breaker().probe_now(now());
    }

    fn circuit(&self) -> CircuitState {
        self.breaker().state(now())
    }

    /// One statement under guard; `call` is called again if it met a conflict.
    async fn run<'a, T>(
        &self,
        name: &'static str,
        call: impl Fn() -> StoreFuture<'a, T>,
    ) -> Result<T, StoreError> {
        if !self.is_ready() {
            return Err(not_ready());
        }
        let Some(permit) = self.breaker().try_call(now()) else {
            return Err(circuit_open());
        };
        let started = Instant::now();
        let until = match permit.probe_deadline() {
            Some(deadline) => Instant::from_std(deadline),
            None => started + self.timeout,
        };
        let mut running = Running {
            guarded: self,
            name,
            started,
            permit: Some(permit),
        };
        let result = match timeout_at(until, caught(&call)).await {
            Ok(Err(error)) if error.class == StoreErrorClass::Conflict => {
                timeout_at(until, caught(&call)).await
            }
            result => result,
        };
        let result = result.unwrap_or_else(|_| {
            let message = format!(
                "the ledger's database took longer than {} ms (ORCH_DB_TIMEOUT_MS) to {name}",
                (until - started).as_millis()
            );
            Err(StoreError::new(StoreErrorClass::Timeout, message))
        });
        running.finish(result.as_ref().err());
        result
    }

    /// The same of a statement that writes so many rows: later ones are about fewer if it is too slow.
    async fn write<'a>(
        &self,
        name: &'static str,
        rows: usize,
        call: impl Fn() -> StoreFuture<'a, ()>,
    ) -> Result<(), StoreError> {
        let started = Instant::now();
        let result = self.run(name, call).await;
        let too_slow = matches!(&result, Err(error) if error.class == StoreErrorClass::Timeout);
        if too_slow || result.is_ok() {
            self.pace().took(rows, started.elapsed(), too_slow);
        }
        result
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement under way. One that is dropped before its end was given up by its caller, whose budget was used up:
/// it was too slow.
struct Running<'a> {
    guarded: &'a Guarded,
    name: &'static str,
    started: Instant,
    permit: Option<Permit>,
}

impl Running<'_> {
    fn finish(&mut self, error: Option<&StoreError>) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        let Guarded { health, .. } = self.guarded;
        health
            .metrics()
            .statement(self.name, self.started.elapsed());
        let outcome = match error.map(|error| error.class) {
            None => CallOutcome::Ok,
            Some(StoreErrorClass::Data) => CallOutcome::DataError,
            Some(_) => CallOutcome::Failed,
        };
        let (before, after) = {
            let mut breaker = self.guarded.breaker();
            let before = breaker.state(now());
            breaker.report(permit, outcome, now());
            (before, breaker.state(now()))
        };
        match error {
            None => health.statement_worked(after),
            Some(error) => {
                health.metrics().statement_failed(error.class.as_str());
                match error.class {
                    StoreErrorClass::Data => health.statement_refused(after),
                    _ => health.statement_failed(after, error.message.clone()),
                }
            }
        }
        match (before, after) {
            (CircuitState::Closed, CircuitState::Open) => {
                let error = error.map(|error| error.message.as_str());
                tracing::error!(error, "the ledger's circuit has opened");
            }
            (CircuitState::HalfOpen, CircuitState::Closed) => {
                tracing::info!("the ledger's circuit has closed: its database is back");
            }
            _ => {}
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let message = "a call used up its budget (ORCH_DB_BATCH_BUDGET_MS)";
        self.finish(Some(&StoreError::new(StoreErrorClass::Timeout, message)));
    }
}

/// A panic in a store is no more than an error.
async fn caught<'a, T>(call: impl FnOnce() -> StoreFuture<'a, T>) -> Result<T, StoreError> {
    let caught = AssertUnwindSafe(async { call().await }).catch_unwind();
    caught.await.unwrap_or_else(|panic| {
        let message = format!("the failure store panicked: {}", panic_text(&*panic));
        Err(StoreError::new(StoreErrorClass::Unavailable, message))
    })
}

fn not_ready() -> StoreError {
    let message = "the ledger's database has not been reached yet (ORCH_DB_URL)";
    StoreError::new(StoreErrorClass::Unavailable, message)
}

fn circuit_open() -> StoreError {
    let message =
        "the ledger's database keeps failing and is left alone for a while (circuit open)";
    StoreError::new(StoreErrorClass::Unavailable, message)
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl FailureStore for Guarded {
    /// Outside the breaker, which judges statements: whoever calls this paces it.
    fn prepare(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            let result = timeout(PREPARE_TIMEOUT, caught(|| self.store.prepare()))
                .await
                .unwrap_or_else(|_| {
                    let message = format!(
                        "the ledger's database did not get ready within {PREPARE_TIMEOUT:?}"
                    );
                    Err(StoreError::new(StoreErrorClass::Timeout, message))
                });
            match &result {
                Ok(()) => {
                    self.ready.store(true, Relaxed);
                    self.health.statement_worked(self.circuit());
                }
                Err(error) => self
                    .health
                    .statement_failed(self.circuit(), error.message.clone()),
            }
            result
        })
    }

    /// As many as it does in time: fewer than the store takes, after time-outs.
    fn rows_per_statement(&self) -> usize {
        self.pace().rows()
    }

    fn connections(&self) -> usize {
        self.store.connections().max(1)
    }

    fn insert_received<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.write("insert_received", rows.len(), move || {
            self.store.insert_received(ledger, rows, now_ms)
        }))
    }

    fn upsert_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.write("upsert_failed", rows.len(), move || {
            self.store.upsert_failed(ledger, rows, now_ms)
        }))
    }

    fn pass_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.write("pass_failed", positions.len(), move || {
            self.store.pass_failed(ledger, positions, now_ms)
        }))
    }

    fn succeed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        at_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let offsets = ranges
            .iter()
            .map(|range| range.next - range.from)
            .sum::<i64>();
        let offsets = usize::try_from(offsets).unwrap_or(usize::MAX);
        Box::pin(self.write("succeed", offsets, move || {
            self.store.succeed(ledger, ranges, at_ms)
        }))
    }

    fn provisional<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Provisional>> {
        Box::pin(self.run("provisional", move || {
            self.store.provisional(ledger, from, limit)
        }))
    }

    fn received_page<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, ReceivedPage> {
        Box::pin(self.run("received_page", move || {
            self.store.received_page(ledger, from, limit)
        }))
    }

    fn settle<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        settlement: Settlement,
        before_ms: i64,
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.run("settle", move || {
            self.store
                .settle(ledger, positions, settlement, before_ms, now_ms)
        }))
    }

    fn prune<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        created_ms: Range<i64>,
        limit: usize,
    ) -> StoreFuture<'a, u64> {
        Box::pin(self.run("prune", move || {
            self.store.prune(ledger, created_ms.clone(), limit)
        }))
    }
}

#[cfg(test)]
#[path = "guarded_tests.rs"]
mod tests;
