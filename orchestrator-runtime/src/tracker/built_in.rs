//! The strategies OUTBOX, RELIABLE and LIGHTWEIGHT. Common to all: a row of a failure is written before the commit
//! that passes its record, as provisional; the commit passes it, or a later success turns it into SUCCESS. Driven by
//! the worker; a background task writes what had to wait. It must never hold up a call beyond its budget.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    BoxFuture, FailureRecord, FailureStore, FailureTracker, LedgerIdentity, Passed,
    SourcePartition, SourcePosition, StoreError, StoreErrorClass, Taken, TrackerError,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::LedgerSettings;
use super::guarded::Guarded;
use super::health::LedgerHealth;
use super::queue::Mark;
use super::received::Notes;
use super::spilling::Spill;
use super::upkeep::Upkeep;
use super::watch::Watches;
use super::writer::Writer;
use crate::clock::now_ms;
use crate::config::{StorePayload, Strategy};
use crate::metrics::LedgerMetrics;

/// See the module.
pub(super) struct BuiltIn {
    pub(super) state: Arc<State>,
    _background: Vec<AbortOnDropHandle<()>>,
}

/// What the strategy and its background share.
pub(super) struct State {
    pub(super) writer: Writer,
    /// LIGHTWEIGHT's: which rows of failures may turn out to be successes. The others ask the database by range.
    watches: Option<Mutex<Watches>>,
    /// What OUTBOX and RELIABLE do beside.
    pub(super) notes: Option<Notes>,
    pub(super) spill: Option<Spill>,
    /// Held while the queue is put into the journal,
    pub(super) spilling: tokio::sync::Mutex<()>,
    /// and whether it is: rows that are on their way there are not in the queue.
    pub(super) is_spilling: AtomicBool,
    pub(super) upkeep: Upkeep,
    pub(super) wake: Notify,
    pub(super) batch_budget: Duration,
    pub(super) circuit_open: Duration,
    pub(super) strict: bool,
    keep_payload: bool,
}

/// Starts the strategy over `store`, which gets one try to be ready at once.
pub(super) async fn start(
    store: Arc<dyn FailureStore>,
    settings: &LedgerSettings,
    metrics: LedgerMetrics,
    ledger: LedgerIdentity,
) -> (BuiltIn, Arc<LedgerHealth>) {
    let health = Arc::new(LedgerHealth::new(metrics));
    let strict = !settings.degrade_dont_block;
    let guarded = Guarded::new(store, settings, health.clone());
    // Not longer than a batch would wait for it: the background goes on with it.
    let prepared = timeout(settings.batch_budget, guarded.prepare()).await;
    if let Err(error) = prepared.unwrap_or_else(|_| Err(too_slow())) {
        let then = match (strict, settings.strategy) {
            (false, _) => "rows wait for it",
            (true, Strategy::Lightweight) => "partitions with failures are held",
            (true, _) => "partitions are held",
        };
        tracing::error!(%error, "the ledger's database is not ready; it is tried again, and meanwhile {then}");
    }
    let per_statement = match settings.strategy {
        Strategy::None | Strategy::Lightweight => None,
        Strategy::Outbox => Some((guarded.rows_per_statement(), 1)),
        Strategy::Reliable => Some((1, guarded.connections())),
    };
    let keep_received = settings.store_payload == StorePayload::All;
    let state = Arc::new(State {
        watches: per_statement.is_none().then(Mutex::default),
        notes: per_statement.map(|sizes| Notes::new(sizes, settings.queue_max_rows, keep_received)),
        spill: open_spill(settings, &ledger).await,
        spilling: tokio::sync::Mutex::default(),
        is_spilling: AtomicBool::new(false),
        upkeep: Upkeep::new(settings, per_statement.is_some()),
        writer: Writer::new(
            guarded,
            ledger,
            health.clone(),
            settings.queue_max_rows,
            strict,
        ),
        wake: Notify::new(),
        batch_budget: settings.batch_budget,
        circuit_open: settings.circuit_open,
        strict,
        keep_payload: settings.store_payload != StorePayload::None,
    });
    let mut background = vec![
        tokio::spawn(state.clone().keep()),
        tokio::spawn(state.clone().keep_up()),
    ];
    if state.notes.is_some() {
        background.push(tokio::spawn(state.clone().keep_telling()));
    }
    let tracker = BuiltIn {
        state,
        _background: background.into_iter().map(AbortOnDropHandle::new).collect(),
    };
    (tracker, health)
}

async fn open_spill(settings: &LedgerSettings, ledger: &LedgerIdentity) -> Option<Spill> {
    let folder = settings.spill_dir.as_ref()?;
    match Spill::open(folder, ledger, settings.spill_max_bytes).await {
        Ok(spill) => Some(spill),
        Err(error) => {
            tracing::error!(%error, "there is no spill journal: rows that the database cannot take wait in memory only");
            None
        }
    }
}

impl Drop for BuiltIn {
    fn drop(&mut self) {
        let missed = self.state.notes.as_ref().map(Notes::abandon);
        self.state.writer.abandon(missed.unwrap_or_default());
    }
}

impl FailureTracker for BuiltIn {
    fn assigned<'a>(
        &'a self,
        starts: &'a [SourcePosition],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(self.state.assigned(starts))
    }

    fn revoked<'a>(&'a self, partitions: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
        self.state.revoked(partitions);
        Box::pin(std::future::ready(()))
    }

    fn notes_received(&self) -> bool {
        self.state.notes.is_some()
    }

    fn received<'a>(&'a self, taken: &'a [Taken]) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async {
            self.state.upkeep.received(taken);
            let received = self.state.received(taken).await;
            self.state.verdict(received, "note records")
        })
    }

    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(self.state.failed(failures))
    }

    fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async {
            let marked = self.state.committed(passed).await;
            self.state.succeeded(passed).await;
            self.state.upkeep.committed(passed);
            self.state.report();
            marked
        })
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.state.flush())
    }
}

impl State {
    async fn assigned(&self, starts: &[SourcePosition]) -> Result<(), TrackerError> {
        if let Some(notes) = &self.notes {
            for start in starts {
                notes.in_flight().assigned(&start.partition);
            }
        }
        self.upkeep.assigned(starts);
        for start in starts {
            self.writer.given_up().assigned(&start.partition);
        }
        if self.watches.is_none() {
            return Ok(());
        }
        if let Some(mut watches) = self.watches() {
            for start in starts {
                watches.assigned(start, Instant::now());
            }
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

    fn revoked(&self, partitions: &[SourcePartition]) {
        let now = Instant::now();
        self.upkeep.revoked(partitions);
        if let Some(mut watches) = self.watches() {
            for partition in partitions {
                watches.revoked(partition, now);
            }
        }
        self.writer.queue().orphan(partitions, now);
    }

    async fn failed(&self, failures: &[FailureRecord]) -> Result<(), TrackerError> {
        if failures.is_empty() {
            return Ok(());
        }
        let deadline = self.deadline();
        let (turn, mut trouble) = self.take_turn(deadline).await;
        let (mut rest, mut spills) = (failures, true);
        while !rest.is_empty() {
            let writes = turn.as_ref().filter(|_| trouble.is_none());
            if writes.is_none() && spills && self.writer.queue().room() == 0 {
                spills = self.spill_queue().await;
            }
            let size = self.at_once(writes.is_some(), spills, rest.len());
            let (some, more) = rest.split_at(size);
            for failed in some {
                let row = LedgerRow::failed(failed, self.keep_payload);
                let position = row.position.clone();
                if let Some(mut watches) = self.watches() {
                    watches.failed(&position);
                }
                if self.writer.queue_row(row) {
                    continue;
                }
                self.unsure(&position.partition);
                if self.strict {
                    let error = trouble.unwrap_or_else(queue_full);
                    return self.verdict(Err(error), "take failed records");
                }
            }
            if let Some(turn) = writes {
                trouble = self.drain(turn, deadline).await.err();
            }
            if turn.is_none() || trouble.is_some() || self.spill_now().is_some() {
                spills = spills && self.spill_queue().await;
            }
            rest = more;
        }
        self.report();
        self.verdict(trouble.map_or(Ok(()), Err), "take failed records")
    }

    async fn committed(&self, passed: &Passed) -> Result<(), TrackerError> {
        let (now_ms, deadline) = (now_ms(), self.deadline());
        let failures = self.writer.passed(&passed.failures);
        // Failures first: once the watches know the commit, a look from the background may take what is
        // provisional and not marked for a success.
        let failures = self.mark(&failures, Mark::Passed, now_ms, deadline).await;
        let succeeded = self.watches().map(|mut watches| watches.committed(passed));
        let succeeded = self
            .mark(
                &succeeded.unwrap_or_default(),
                Mark::Succeeded,
                now_ms,
                deadline,
            )
            .await;
        self.verdict(failures.and(succeeded), "note which records were passed")
    }

    /// Notes what became of records.
    async fn mark(
        &self,
        positions: &[SourcePosition],
        mark: Mark,
        now_ms: i64,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let mut result = Ok(());
        let mut in_trouble = false;
        let (mut rest, mut spills) = (positions, true);
        while !rest.is_empty() {
            let writes = !in_trouble && self.spill_now().is_none();
            let (some, more) = rest.split_at(self.at_once(writes, spills, rest.len()));
            for position in some {
                if !self.writer.queue_mark(position, mark, now_ms) {
                    self.unsure(&position.partition);
                    result = Err(queue_full());
                }
            }
            rest = more;
            if self.spill_now().is_some() {
                // The rows they belong to may be in the journal.
                spills = spills && self.spill_queue().await;
                continue;
            }
            if in_trouble {
                // The background writes it. A call that can only run out of time would count against the database.
                continue;
            }
            let written = match self.take_turn(deadline).await {
                (Some(turn), _) => self.drain(&turn, deadline).await,
                (None, trouble) => trouble.map_or(Ok(()), Err),
            };
            in_trouble = written.is_err();
            result = result.and(written);
        }
        result
    }

    /// Trouble is the caller's only where nothing may pass unrecorded; else the background sees to it.
    pub(super) fn verdict(
        &self,
        result: Result<(), StoreError>,
        what: &str,
    ) -> Result<(), TrackerError> {
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

    pub(super) fn watches(&self) -> Option<MutexGuard<'_, Watches>> {
        let watches = self.watches.as_ref()?;
        Some(watches.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something about a record of this partition could not be kept.
    pub(super) fn unsure(&self, partition: &SourcePartition) {
        if let Some(mut watches) = self.watches() {
            watches.unsure(partition);
        }
    }

    /// Tells health and metrics how much waits.
    pub(super) fn report(&self) {
        let rows = self.writer.queue().waiting();
        let received = self.notes.as_ref().map_or(0, Notes::rows_waiting);
        let (spilled, bytes) = self.spill.as_ref().map_or((0, 0), Spill::waiting);
        let rows = (rows + received) as u64 + spilled;
        self.writer.health.rows_waiting(rows, bytes);
    }

    /// How much waits, in memory and in the journal.
    pub(super) fn left(&self) -> u64 {
        let notes = self.notes.as_ref().map_or(0, Notes::waiting);
        let (spilled, _) = self.spill.as_ref().map_or((0, 0), Spill::waiting);
        (self.writer.queue().len() + notes) as u64 + spilled
    }

    /// Whether nothing waits in memory.
    pub(super) fn is_idle(&self) -> bool {
        self.writer.queue().is_idle() && self.notes.as_ref().is_none_or(Notes::is_idle)
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
#[path = "built_in_tests.rs"]
mod tests;
