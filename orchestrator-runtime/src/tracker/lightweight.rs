//! The strategy LIGHTWEIGHT: rows of failures only. A row is written before the commit that passes its record, as
//! provisional; the commit passes it, or a later success turns it into SUCCESS. Driven by the worker; a background
//! task writes what had to wait. It must never hold up a call beyond its budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    BoxFuture, FailureRecord, FailureStore, FailureTracker, LedgerIdentity, Passed,
    SourcePartition, SourcePosition, StoreError, StoreErrorClass, TrackerError,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::guarded::Guarded;
use super::health::LedgerHealth;
use super::queue::Mark;
use super::watch::Watches;
use super::writer::{Turn, Writer};
use super::{LedgerSettings, now_ms};
use crate::config::StorePayload;
use crate::metrics::LedgerMetrics;

/// See the module.
pub(super) struct Lightweight {
    state: Arc<State>,
    _background: AbortOnDropHandle<()>,
}

/// What the strategy and its background share.
pub(super) struct State {
    pub(super) writer: Writer,
    watches: Mutex<Watches>,
    pub(super) wake: Notify,
    batch_budget: Duration,
    pub(super) circuit_open: Duration,
    strict: bool,
    keep_payload: bool,
}

/// Starts the strategy over `store`, which gets one try to be ready at once.
pub(super) async fn start(
    store: Arc<dyn FailureStore>,
    settings: &LedgerSettings,
    metrics: LedgerMetrics,
    ledger: LedgerIdentity,
) -> (Lightweight, Arc<LedgerHealth>) {
    let health = Arc::new(LedgerHealth::new(metrics));
    let strict = !settings.degrade_dont_block;
    let guarded = Guarded::new(store, settings, health.clone());
    // Not longer than a batch would wait for it: the background goes on with it.
    let prepared = timeout(settings.batch_budget, guarded.prepare()).await;
    if let Err(error) = prepared.unwrap_or_else(|_| Err(too_slow())) {
        let then = if strict {
            "partitions with failures are held"
        } else {
            "rows wait for it"
        };
        tracing::error!(%error, "the ledger's database is not ready; it is tried again, and meanwhile {then}");
    }
    let state = Arc::new(State {
        writer: Writer::new(
            guarded,
            ledger,
            health.clone(),
            settings.queue_max_rows,
            strict,
        ),
        watches: Mutex::default(),
        wake: Notify::new(),
        batch_budget: settings.batch_budget,
        circuit_open: settings.circuit_open,
        strict,
        keep_payload: settings.store_payload != StorePayload::None,
    });
    let background = tokio::spawn(state.clone().keep());
    let tracker = Lightweight {
        state,
        _background: AbortOnDropHandle::new(background),
    };
    (tracker, health)
}

impl Drop for Lightweight {
    fn drop(&mut self) {
        self.state.writer.abandon();
    }
}

impl FailureTracker for Lightweight {
    fn assigned<'a>(
        &'a self,
        starts: &'a [SourcePosition],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(self.state.assigned(starts))
    }

    fn revoked<'a>(&'a self, partitions: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
        for partition in partitions {
            self.state.watches().revoked(partition, Instant::now());
        }
        self.state.writer.queue().orphan(partitions, Instant::now());
        Box::pin(std::future::ready(()))
    }

    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(self.state.failed(failures))
    }

    fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(self.state.committed(passed))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.state.flush())
    }
}

impl State {
    async fn assigned(&self, starts: &[SourcePosition]) -> Result<(), TrackerError> {
        for start in starts {
            self.watches().assigned(start, Instant::now());
        }
        // While the database is in trouble the background looks later.
        if !self.strict && !self.writer.store.is_flowing() {
            return Ok(());
        }
        let looked = timeout_at(self.deadline(), async {
            for start in starts {
                self.look(start).await?;
            }
            Ok(())
        });
        self.wake.notify_one();
        self.verdict(
            looked.await.unwrap_or(Ok(())),
            "look up what it knows of the assigned partitions",
        )
    }

    async fn failed(&self, failures: &[FailureRecord]) -> Result<(), TrackerError> {
        if failures.is_empty() {
            return Ok(());
        }
        let deadline = self.deadline();
        let (turn, mut trouble) = self.take_turn(deadline).await;
        for some in failures.chunks(self.writer.rows_at_a_time()) {
            for failed in some {
                let row = LedgerRow::failed(failed, self.keep_payload);
                let position = row.position.clone();
                self.watches().failed(&position);
                if self.writer.queue_row(row) {
                    continue;
                }
                self.watches().unsure(&position.partition);
                if self.strict {
                    let error = trouble.unwrap_or_else(queue_full);
                    return self.verdict(Err(error), "take failed records");
                }
            }
            if let (Some(turn), None) = (&turn, &trouble) {
                trouble = self.writer.drain(turn, deadline).await.err();
            }
        }
        self.writer.report();
        self.verdict(trouble.map_or(Ok(()), Err), "take failed records")
    }

    async fn committed(&self, passed: &Passed) -> Result<(), TrackerError> {
        let now_ms = now_ms();
        let mut queued = true;
        let mut mark = |position: &SourcePosition, mark: Mark| {
            if !self.writer.queue_mark(position, mark, now_ms) {
                queued = false;
                self.watches().unsure(&position.partition);
            }
        };
        // Failures first: once the watches know the commit, a look from the background may take what is
        // provisional and not marked for a success.
        for position in &passed.failures {
            mark(position, Mark::Passed);
        }
        let succeeded = self.watches().committed(passed);
        for position in &succeeded {
            mark(position, Mark::Succeeded);
        }
        if passed.failures.is_empty() && succeeded.is_empty() {
            return Ok(());
        }
        let deadline = self.deadline();
        let (turn, mut trouble) = self.take_turn(deadline).await;
        if let Some(turn) = &turn {
            trouble = self.writer.drain(turn, deadline).await.err();
        }
        if !queued && self.strict {
            trouble = trouble.or_else(|| Some(queue_full()));
        }
        self.verdict(
            trouble.map_or(Ok(()), Err),
            "note which records were passed",
        )
    }

    /// The turn to write; none if the database is in trouble and nobody is to wait for it.
    async fn take_turn(&self, deadline: Instant) -> (Option<Turn<'_>>, Option<StoreError>) {
        if !self.strict && !self.writer.store.is_flowing() {
            return (None, None);
        }
        match self.writer.turn(deadline).await {
            Ok(turn) => (Some(turn), None),
            Err(error) => (None, Some(error)),
        }
    }

    /// Trouble is the caller's only where nothing may pass unrecorded; else the background sees to it.
    fn verdict(&self, result: Result<(), StoreError>, what: &str) -> Result<(), TrackerError> {
        let Err(error) = result else {
            return Ok(());
        };
        self.wake.notify_one();
        if !self.strict {
            return Ok(());
        }
        Err(TrackerError {
            message: format!(
                "the failure ledger could not {what}: {error}; partitions are held until it can \
                 (ORCH_DB_DEGRADE_DONT_BLOCK=false)"
            ),
        })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.batch_budget
    }

    pub(super) fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_slow() -> StoreError {
    StoreError::new(
        StoreErrorClass::Timeout,
        "it did not get ready in time (ORCH_DB_BATCH_BUDGET_MS)",
    )
}

fn queue_full() -> StoreError {
    StoreError::new(
        StoreErrorClass::Unavailable,
        "too many rows wait for the database (ORCH_DB_QUEUE_MAX_ROWS)",
    )
}

#[cfg(test)]
#[path = "lightweight_tests.rs"]
mod tests;
