//! Writes what waits in the queue, through the guard: on the strategy's behalf while a call's budget lasts, else
//! from the background. One at a time (its turn), so that what happens to a record is written in order. It must
//! never lose an entry without counting it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, SourcePosition, StoreError, StoreErrorClass,
};
use tokio::sync::MutexGuard as TurnGuard;
use tokio::time::{Instant, timeout_at};

use super::drops::{DropReason, Drops};
use super::guarded::Guarded;
use super::health::LedgerHealth;
use super::now_ms;
use super::queue::{Mark, Marked, Queue, Work};

/// See the module.
pub(super) struct Writer {
    pub(super) store: Guarded,
    pub(super) ledger: LedgerIdentity,
    pub(super) health: Arc<LedgerHealth>,
    queue: Mutex<Queue>,
    turn: tokio::sync::Mutex<()>,
    drops: Drops,
    /// Nothing may be given up: a row that cannot be written is an error for ever.
    strict: bool,
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

    /// Waits for the turn, not beyond `deadline`.
    pub(super) async fn turn(&self, deadline: Instant) -> Result<Turn<'_>, StoreError> {
        match timeout_at(deadline, self.turn.lock()).await {
            Ok(guard) => Ok(Turn { _guard: guard }),
            Err(_) => Err(busy("another call is writing to the ledger")),
        }
    }

    /// Queues a row; if there is no room for it, it is given up (unless nothing may be) and `false` comes back.
    pub(super) fn queue_row(&self, row: LedgerRow) -> bool {
        let dedup_key = row.dedup_key.clone();
        let queued = self.queue().push_row(row).is_ok();
        if !queued && !self.strict {
            self.drops
                .drop_row(&self.health, DropReason::QueueFull, &dedup_key);
        }
        queued
    }

    /// Queues a mark; `false` if there is no room for it.
    pub(super) fn queue_mark(&self, position: &SourcePosition, mark: Mark, now_ms: i64) -> bool {
        self.queue().push_mark(position, mark, now_ms).is_ok()
    }

    /// Writes until the queue is empty, not beyond `deadline`.
    pub(super) async fn drain(&self, turn: &Turn<'_>, deadline: Instant) -> Result<(), StoreError> {
        let written = timeout_at(deadline, async {
            while self.write_some(turn).await? {}
            Ok(())
        })
        .await;
        self.report();
        written.unwrap_or_else(|_| {
            Err(busy(
                "the budget of the call was used up (ORCH_DB_BATCH_BUDGET_MS)",
            ))
        })
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
        self.write_rows(&work).await?;
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

    async fn write_rows(&self, work: &Work) -> Result<(), StoreError> {
        if work.rows.is_empty() {
            return Ok(());
        }
        match self
            .store
            .upsert_failed(&self.ledger, &work.rows, now_ms())
            .await
        {
            Err(error) if error.class == StoreErrorClass::Data => {
                // One of them is refused: find it, so that its neighbours are not.
                for (row, version) in work.rows.iter().zip(&work.row_versions) {
                    self.write_row(row, *version).await?;
                }
                Ok(())
            }
            result => {
                result?;
                self.health.rows_written(work.rows.len());
                let mut queue = self.queue();
                for (row, version) in work.rows.iter().zip(&work.row_versions) {
                    queue.done(&row.position, *version);
                }
                Ok(())
            }
        }
    }

    /// Writes one row, without payload and text if it must be.
    async fn write_row(&self, row: &LedgerRow, version: u64) -> Result<(), StoreError> {
        let whole = std::slice::from_ref(row);
        let mut written = self
            .store
            .upsert_failed(&self.ledger, whole, now_ms())
            .await;
        if let Err(StoreError {
            class: StoreErrorClass::Data,
            ..
        }) = written
        {
            let bare = [row.clone().bare()];
            written = self
                .store
                .upsert_failed(&self.ledger, &bare, now_ms())
                .await;
        }
        match written {
            Ok(()) => self.health.rows_written(1),
            Err(error) if error.class == StoreErrorClass::Data && !self.strict => {
                self.drops
                    .drop_row(&self.health, DropReason::Refused, &row.dedup_key);
            }
            Err(error) => return Err(error),
        }
        self.queue().done(&row.position, version);
        Ok(())
    }

    fn marked(&self, marked: &Marked, written: Result<(), StoreError>) -> Result<(), StoreError> {
        match written {
            Err(error) if error.class != StoreErrorClass::Data => return Err(error),
            // There is nothing in a mark that could be refused; should it be, trying again would not help.
            Err(error) => {
                tracing::warn!(%error, rows = marked.positions.len(), "the ledger refused marks")
            }
            Ok(()) => {}
        }
        let mut queue = self.queue();
        for (position, version) in marked.positions.iter().zip(&marked.versions) {
            queue.done(position, *version);
        }
        Ok(())
    }

    /// Tells health how much waits.
    pub(super) fn report(&self) {
        let waiting = self.queue().waiting();
        self.health.rows_waiting(waiting);
    }

    /// What the background sees to now and then beside writing.
    pub(super) fn tidy(&self) {
        self.queue().forget_orphans(Instant::now());
        self.drops.sum_up_old();
        self.report();
    }

    /// Gives up whatever still waits: the process ends.
    pub(super) fn abandon(&self) {
        let lost = self.queue().abandon();
        for dedup_key in &lost {
            self.drops
                .drop_row(&self.health, DropReason::Shutdown, dedup_key);
        }
        self.drops.sum_up();
        self.report();
    }
}

/// Ascending positions as ranges.
fn as_ranges(positions: &[SourcePosition]) -> Vec<OffsetRange> {
    let mut ranges: Vec<OffsetRange> = Vec::new();
    for SourcePosition { partition, offset } in positions {
        match ranges.last_mut() {
            Some(last) if last.partition == *partition && last.next == *offset => {
                last.next += 1;
            }
            _ => ranges.push(OffsetRange {
                partition: partition.clone(),
                from: *offset,
                next: offset + 1,
            }),
        }
    }
    ranges
}

fn busy(message: &str) -> StoreError {
    StoreError::new(StoreErrorClass::Timeout, message)
}
