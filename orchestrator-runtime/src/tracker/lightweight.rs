//! The strategy LIGHTWEIGHT: rows of failures only. A row is written before the commit that passes its record, as
//! provisional; the commit passes it, or a later success turns it into SUCCESS. Driven by the worker; a background
//! task writes what had to wait. It must never hold up a call beyond its budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    BoxFuture, FailureRecord, FailureStore, FailureTracker, LedgerIdentity, Passed,
    SourcePartition, SourcePosition, StoreError, TrackerError,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::guarded::Guarded;
use super::health::LedgerHealth;
use super::queue::Mark;
use super::watch::{PAGE, Watches};
use super::writer::{Turn, Writer};
use super::{LedgerSettings, StorePayload, now_ms};

/// The least pause between two tries of a database in trouble.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// The background task looks round at least this often.
const IDLE_TICK: Duration = Duration::from_secs(10);
/// A bound of our own for the last flush, should the caller have none.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Lightweight {
    state: Arc<State>,
    _background: AbortOnDropHandle<()>,
}

struct State {
    writer: Writer,
    watches: Mutex<Watches>,
    wake: Notify,
    batch_budget: Duration,
    circuit_open: Duration,
    strict: bool,
    keep_payload: bool,
}

/// Starts the strategy over `store`, which gets one try to be ready at once.
pub(super) async fn start(
    store: Arc<dyn FailureStore>,
    settings: &LedgerSettings,
    ledger: LedgerIdentity,
) -> (Lightweight, Arc<LedgerHealth>) {
    let health = Arc::new(LedgerHealth::new(&settings.pipeline));
    let strict = !settings.degrade_dont_block;
    let guarded = Guarded::new(store, settings, health.clone());
    if let Err(error) = guarded.prepare().await {
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
            self.state.watches().revoked(partition);
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

    /// Looks for provisional rows from a position on.
    async fn look(&self, from: &SourcePosition) -> Result<(), StoreError> {
        let Writer { store, ledger, .. } = &self.writer;
        let offsets = store.provisional(ledger, from, PAGE).await?;
        let committed = self.watches().found(from, &offsets, Instant::now());
        for position in committed {
            let ours = self.writer.queue().contains(&position);
            if !ours && !self.writer.queue_mark(&position, Mark::Succeeded, now_ms()) {
                self.watches().unsure(&position.partition);
            }
        }
        Ok(())
    }

    /// The background task: gets the store ready, writes what waits, looks where it is due.
    async fn keep(self: Arc<Self>) {
        let mut pause = RETRY_AFTER;
        loop {
            let next = match self.step().await {
                Ok(next) => {
                    pause = RETRY_AFTER;
                    next
                }
                Err(_) => {
                    let next = Instant::now() + pause;
                    pause = (pause * 2).min(self.circuit_open.max(RETRY_AFTER));
                    self.writer
                        .store
                        .retry_at()
                        .map_or(next, |at| at.max(Instant::now() + RETRY_AFTER))
                }
            };
            self.writer.tidy();
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// What is due now; gives back when to come again.
    async fn step(&self) -> Result<Instant, StoreError> {
        if !self.writer.store.is_ready() {
            self.writer.store.prepare().await?;
            tracing::info!("the ledger's database is ready");
        }
        loop {
            let turn = self.writer.turn(Instant::now() + IDLE_TICK).await?;
            if !self.writer.write_some(&turn).await? {
                break;
            }
        }
        let due = self.watches().due(Instant::now());
        for position in due {
            self.look(&position).await?;
        }
        let idle = Instant::now() + IDLE_TICK;
        let due = self.watches().next_due();
        let now_if_marked = (!self.writer.queue().is_idle()).then(Instant::now);
        Ok([due, now_if_marked]
            .into_iter()
            .flatten()
            .fold(idle, Instant::min))
    }

    /// Writes what waits, trying a database in trouble again and again; gives up what is left.
    async fn flush(&self) {
        let until = Instant::now() + FLUSH_LIMIT;
        while !self.writer.queue().is_idle() {
            self.writer.store.probe_now();
            let written = match self.writer.turn(until).await {
                Ok(turn) => self.writer.drain(&turn, until).await,
                Err(error) => Err(error),
            };
            if written.is_err() && Instant::now() >= until {
                break;
            }
            if written.is_err() {
                sleep(RETRY_AFTER).await;
            }
        }
        self.writer.abandon();
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.batch_budget
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn queue_full() -> StoreError {
    StoreError::new(
        orchestrator_core::StoreErrorClass::Unavailable,
        "too many rows wait for the database (ORCH_DB_QUEUE_MAX_ROWS)",
    )
}

#[cfg(test)]
#[path = "lightweight_tests.rs"]
mod tests;
