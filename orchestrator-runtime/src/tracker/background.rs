//! What the strategies do behind the worker's back: get the store ready, write what had to wait, write back from the
//! journal, tell successes, look for rows of others. Spawned by the strategy; the last flush is here too. It must pace itself while the database is in trouble.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use orchestrator_core::{FailureStore, SourcePosition, StoreError};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::built_in::State;
use super::queue::Mark;
use super::spilling::Back;
use super::watch::{PAGE, Watches};
use super::writer::{Writer, over_budget};
use crate::clock::now_ms;

/// The least pause between two tries of a database in trouble.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// The background looks round at least this often.
const IDLE_TICK: Duration = Duration::from_secs(10);
/// A bound of our own for the last flush, should the caller have none.
pub(super) const FLUSH_LIMIT: Duration = Duration::from_secs(10);

impl State {
    /// Looks for provisional rows from a position on.
    pub(super) async fn look(&self, from: &SourcePosition) -> Result<(), StoreError> {
        let Writer { store, ledger, .. } = &self.writer;
        let rows = store.provisional(ledger, from, PAGE).await?;
        let offsets: Vec<i64> = rows.iter().map(|row| row.offset).collect();
        let found =
            |mut watches: MutexGuard<'_, Watches>| watches.found(from, &offsets, Instant::now());
        let committed = self.watches().map(found).unwrap_or_default();
        for position in committed {
            let ours = self.writer.queue().contains(&position);
            if !ours && !self.writer.queue_mark(&position, Mark::Succeeded, now_ms()) {
                self.unsure(&position.partition);
            }
        }
        Ok(())
    }

    /// The background task: gets the store ready, writes what waits, looks where it is due.
    pub(super) async fn keep(self: Arc<Self>) {
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
            if let Some(mut watches) = self.watches() {
                watches.forget_gone(Instant::now());
            }
            self.report();
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
        if let Some(spill) = &self.spill
            && self.writer.store.is_flowing()
        {
            spill.adopt_now_and_then().await;
        }
        self.write_waiting(Instant::now() + IDLE_TICK).await?;
        if let Some(notes) = &self.notes {
            notes.wake.notify_one();
        }
        let due = self.watches().map(|watches| watches.due(Instant::now()));
        for position in due.unwrap_or_default() {
            self.look(&position).await?;
        }
        let idle = Instant::now() + IDLE_TICK;
        let due = self.watches().and_then(|watches| watches.next_due());
        let now_if_marked = (!self.writer.queue().is_idle()).then(Instant::now);
        Ok([due, now_if_marked]
            .into_iter()
            .flatten()
            .fold(idle, Instant::min))
    }

    /// The second background task, of OUTBOX and RELIABLE: tells the database what has succeeded.
    pub(super) async fn keep_telling(self: Arc<Self>) {
        let Some(notes) = &self.notes else {
            return;
        };
        loop {
            match self.tell(notes).await {
                Ok(true) => {}
                Ok(false) => {
                    self.report();
                    notes.wake.notified().await;
                }
                Err(_) => {
                    // The first task notices when the database is well again, and wakes this one.
                    self.wake.notify_one();
                    let retry = self.writer.store.retry_at();
                    let soon = Instant::now() + RETRY_AFTER;
                    sleep_until(retry.map_or(soon, |at| at.max(soon))).await;
                }
            }
        }
    }

    /// Writes what waits, trying a database in trouble again and again. What is left then is given up only when
    /// the strategy is dropped: other workers may still be at it. What is in the journal waits there for the next
    /// process.
    pub(super) async fn flush(&self) {
        let until = Instant::now() + FLUSH_LIMIT;
        if self.spill_now().is_some() {
            self.spill_queue().await;
        }
        while !self.is_idle() {
            let left = self.left();
            self.wake.notify_one();
            self.writer.store.probe_now();
            let written = timeout_at(until, self.write_waiting(until)).await;
            let written = written.unwrap_or_else(|_| Err(over_budget()));
            let told = match (&self.notes, &written) {
                (Some(notes), Ok(())) => self.tell(notes).await.map(drop),
                _ => Ok(()),
            };
            if Instant::now() >= until {
                break;
            }
            if written.and(told).is_err() || self.left() >= left {
                sleep(RETRY_AFTER).await;
            }
        }
        self.report();
    }

    /// Writes all that waits, in the journal and in the queue. Waits for the turn, not beyond `turn_until`.
    async fn write_waiting(&self, turn_until: Instant) -> Result<(), StoreError> {
        loop {
            // Before the queue, in which may be marks of its rows that found no room there.
            let journal = self.write_back().await?;
            let turn = self.writer.turn(turn_until).await?;
            // Nor may a mark be told while its row is neither in the queue nor in the journal.
            self.spilled().await;
            if journal == Back::Nothing && self.journal_holds_some() {
                continue;
            }
            if !self.writer.write_some(&turn).await? {
                return Ok(());
            }
        }
    }

    /// Writes all that is in the journal.
    async fn write_back(&self) -> Result<Back, StoreError> {
        let Some(spill) = &self.spill else {
            return Ok(Back::Nothing);
        };
        loop {
            match spill.write_back(&self.writer).await? {
                Back::Some => self.report(),
                ended => return Ok(ended),
            }
        }
    }
}
