//! Writes what waits in the queue, through the guard: on the strategy's behalf while a call's budget lasts, else
//! from the background. One at a time (its turn), so that what happens to a record is written in order. It must
//! never lose an entry without counting it.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, SourcePosition, StoreError, StoreErrorClass,
};
use tokio::sync::MutexGuard as TurnGuard;
use tokio::time::{Instant, timeout_at};

use super::drops::{DropReason, Drops};
use super::given_up::GivenUp;
use super::guarded::Guarded;
use super::health::LedgerHealth;
use super::queue::{Mark, Marked, Queue, Work};
use crate::clock::now_ms;
use crate::kill_points::{KillPoint, kill_point};

/// See the module.
pub(super) struct Writer {
    pub(super) store: Guarded,
    pub(super) ledger: LedgerIdentity,
    pub(super) health: Arc<LedgerHealth>,
    queue: Mutex<Queue>,
    turn: tokio::sync::Mutex<()>,
    given_up: Mutex<GivenUp>,
    pub(super) drops: Drops,
    /// Nothing may be given up: a row that cannot be written is an error for ever.
    strict: bool,
}

/// What rows say of their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKind {
    Received,
    Failed,
}

/// The right to write.
pub(super) struct Turn<'a> {
    _guard: TurnGuard<'a, ()>,
}

impl Writer {
    pub(super) fn new(
        store: Guarded,
        ledger: LedgerIdentity,
        health: Arc<LedgerHealth>,
        max_rows: usize,
        strict: bool,
    ) -> Self {
        Self {
            store,
            ledger,
            health,
            queue: Mutex::new(Queue::new(max_rows)),
            turn: tokio::sync::Mutex::new(()),
            given_up: Mutex::default(),
            drops: Drops::new(),
            strict,
        }
    }

    /// How many rows to put into the queue before some of them are written.
    pub(super) fn rows_at_a_time(&self) -> usize {
        self.store.rows_per_statement().min(self.queue().max_rows())
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn given_up(&self) -> MutexGuard<'_, GivenUp> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn, not beyond `deadline`.
    pub(super) async fn turn(&self, deadline: Instant) -> Result<Turn<'_>, StoreError> {
        match timeout_at(deadline, self.turn.lock()).await {
            Ok(guard) => Ok(Turn { _guard: guard }),
            Err(_) => Err(busy("another call is writing to the ledger")),
        }
    }

    /// Queues a row; if there is no room for it, it is given up (unless nothing may be) and `false` comes back.
    pub(super) fn queue_row(&self, row: LedgerRow) -> bool {
        let queue = self.queue();
        self.push(queue, row)
    }

    /// Queues a row again that was taken out of the queue and could not be put elsewhere.
    pub(super) fn put_back(&self, mut row: LedgerRow) {
        let queue = self.queue();
        if queue.catch_up(&mut row) {
            self.push(queue, row);
        }
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, row: LedgerRow) -> bool {
        let (position, dedup_key) = (row.position.clone(), row.dedup_key.clone());
        let is_passed = row.passed_at_ms.is_some();
        let queued = queue.push_row(row).is_ok();
        drop(queue);
        if queued {
            self.given_up().found_room(&position);
        } else if is_passed {
            self.miss(&dedup_key);
        } else if !self.strict {
            self.given_up().add(position, dedup_key);
        }
        queued
    }

    /// Records were passed as failures: gives back those that have rows.
    pub(super) fn passed<'a>(&self, failures: &'a [SourcePosition]) -> Cow<'a, [SourcePosition]> {
        let missing = self.given_up().passed(failures);
        if missing.is_empty() {
            return Cow::Borrowed(failures);
        }
        missing.values().for_each(|dedup_key| self.miss(dedup_key));
        let have_rows = failures
            .iter()
            .filter(|failed| !missing.contains_key(failed));
        have_rows.cloned().collect()
    }

    /// For want of room there is no row of a failure that was passed.
    fn miss(&self, dedup_key: &str) {
        self.drops
            .drop_row(&self.health, DropReason::QueueFull, dedup_key);
    }

    /// Queues a mark; `false` if there is no room for it.
    pub(super) fn queue_mark(&self, position: &SourcePosition, mark: Mark, now_ms: i64) -> bool {
        self.queue().push_mark(position, mark, now_ms).is_ok()
    }

    /// Writes as much as one statement of each kind takes; `false` if there was nothing to write.
    pub(super) async fn write_some(&self, _turn: &Turn<'_>) -> Result<bool, StoreError> {
        if self.queue().is_idle() {
            return Ok(false);
        }
        if let Some(refusal) = self.store.refusal() {
            return Err(refusal);
        }
        let work = self.queue().take(self.store.rows_per_statement());
        self.write_queued(&work).await?;
        let Work {
            passed, succeeded, ..
        } = &work;
        if !passed.positions.is_empty() {
            let written = self
                .store
                .pass_failed(&self.ledger, &passed.positions, passed.at_ms)
                .await;
            self.marked(passed, written)?;
        }
        if !succeeded.positions.is_empty() {
            let written = self
                .store
                .succeed(
                    &self.ledger,
                    &as_ranges(&succeeded.positions),
                    succeeded.at_ms,
                )
                .await;
            self.marked(succeeded, written)?;
        }
        Ok(true)
    }

    async fn write_queued(&self, work: &Work) -> Result<(), StoreError> {
        if work.rows.is_empty() {
            return Ok(());
        }
        self.write_rows(RowKind::Failed, &work.rows).await?;
        let mut queue = self.queue();
        for (row, version) in work.rows.iter().zip(&work.row_versions) {
            queue.done(&row.position, *version);
        }
        Ok(())
    }

    /// Writes rows of distinct records, as many as one statement takes. One that is refused for its content is
    /// written without it, or given up unless nothing may be.
    pub(super) async fn write_rows(
        &self,
        kind: RowKind,
        rows: &[LedgerRow],
    ) -> Result<(), StoreError> {
        match self.execute(kind, rows).await {
            Err(error) if error.class == StoreErrorClass::Data => {
                // One of them is refused: find it, so that its neighbours are not.
                for row in rows {
                    self.write_alone(kind, row).await?;
                }
                Ok(())
            }
            result => {
                result?;
                self.health.rows_written(rows.len());
                Ok(())
            }
        }
    }

    async fn write_alone(&self, kind: RowKind, row: &LedgerRow) -> Result<(), StoreError> {
        let mut written = self.execute(kind, std::slice::from_ref(row)).await;
        if let Err(StoreError {
            class: StoreErrorClass::Data,
            ..
        }) = written
        {
            written = self.execute(kind, &[row.clone().bare()]).await;
        }
        match written {
            Ok(()) => self.health.rows_written(1),
            Err(error) if error.class == StoreErrorClass::Data && !self.strict => {
                self.drops
                    .drop_row(&self.health, DropReason::Refused, &row.dedup_key);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn execute(&self, kind: RowKind, rows: &[LedgerRow]) -> Result<(), StoreError> {
        let Self { store, ledger, .. } = self;
        kill_point(KillPoint::WritingRows);
        let written = match kind {
            RowKind::Received => store.insert_received(ledger, rows, now_ms()).await,
            RowKind::Failed => store.upsert_failed(ledger, rows, now_ms()).await,
        };
        kill_point(KillPoint::RowsWritten);
        written
    }

    fn marked(&self, marked: &Marked, written: Result<(), StoreError>) -> Result<(), StoreError> {
        refused_alone(written, marked.positions.len())?;
        let mut queue = self.queue();
        for (position, version) in marked.positions.iter().zip(&marked.versions) {
            queue.done(position, *version);
        }
        Ok(())
    }

    /// What the background sees to now and then beside writing.
    pub(super) fn tidy(&self) {
        self.queue().forget_orphans(Instant::now());
        self.drops.sum_up_old();
    }

    /// Gives up whatever still waits, and the rows with these dedup keys: the process ends.
    pub(super) fn abandon(&self, mut lost: Vec<String>) {
        lost.extend(self.queue().abandon());
        for dedup_key in &lost {
            self.drops
                .drop_row(&self.health, DropReason::Shutdown, dedup_key);
        }
        self.drops.sum_up();
        self.health.rows_waiting(0, 0);
    }
}

/// There is nothing in what becomes of records that could be refused; should it be, trying again would not help.
pub(super) fn refused_alone(
    written: Result<(), StoreError>,
    records: usize,
) -> Result<(), StoreError> {
    match written {
        Err(error) if error.class == StoreErrorClass::Data => {
            tracing::warn!(%error, records, "the ledger's database refused to note what became of records");
            Ok(())
        }
        written => written,
    }
}

/// Ascending positions as ranges.
fn as_ranges(positions: &[SourcePosition]) -> Vec<OffsetRange> {
    let mut ranges: Vec<OffsetRange> = Vec::new();
    for position in positions {
        match ranges.last_mut() {
            Some(last) if last.partition == position.partition && last.next == position.offset => {
                last.next += 1;
            }
            _ => ranges.push(single(position)),
        }
    }
    ranges
}

/// A call used up its budget.
pub(super) fn over_budget() -> StoreError {
    busy("the budget of the call was used up (ORCH_DB_BATCH_BUDGET_MS)")
}

/// A position as a range.
pub(super) fn single(position: &SourcePosition) -> OffsetRange {
    OffsetRange {
        partition: position.partition.clone(),
        from: position.offset,
        next: position.offset + 1,
    }
}

fn busy(message: &str) -> StoreError {
    StoreError::new(StoreErrorClass::Timeout, message)
}
