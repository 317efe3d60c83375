//! Where what waits in the queue goes: to the database, or to the journal while that has to come first. Called by what the
//! worker tells, and by the background. Nothing may overtake what is in the journal, or on its way there.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use orchestrator_core::StoreError;
use tokio::time::{Instant, timeout_at};

use super::built_in::State;
use super::queue::Mark;
use super::spill::Entry;
use super::spilling::Spill;
use super::writer::{Turn, over_budget, single};

/// So many rows at most are put into the queue before it goes to the journal: large ones would lose their payload there.
const SPILL_ROWS: usize = 1000;

/// While it is there, the queue is on its way to the journal.
struct OnItsWay<'a>(&'a AtomicBool);

impl<'a> OnItsWay<'a> {
    fn new(is_spilling: &'a AtomicBool) -> Self {
        is_spilling.store(true, Relaxed);
        Self(is_spilling)
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

impl State {
    /// How many of so many records to put into the queue at once: what a statement takes if they are written, else what
    /// there is room for before the queue goes to the journal, as long as that takes all.
    pub(super) fn at_once(&self, writes: bool, spills: bool, records: usize) -> usize {
        let size = match (writes, spills) {
            (true, _) => self.writer.rows_at_a_time(),
            (false, true) => self.writer.queue().room().clamp(1, SPILL_ROWS),
            (false, false) => records,
        };
        size.min(records)
    }

    /// Writes until the queue is empty, not beyond `deadline`, and no longer than nothing that comes before is in the
    /// journal: marks that found no room there must not be told before their rows are.
    pub(super) async fn drain(&self, turn: &Turn<'_>, deadline: Instant) -> Result<(), StoreError> {
        let written = timeout_at(deadline, async {
            while self.spill_now().is_none() && self.writer.write_some(turn).await? {}
            Ok(())
        });
        written.await.unwrap_or_else(|_| Err(over_budget()))
    }

    /// The journal, if what waits has to go there: while the database is in trouble, and as long as the journal holds, or
    /// is about to, what has to be written before.
    pub(super) fn spill_now(&self) -> Option<&Spill> {
        // Where nothing may pass unrecorded, partitions are held instead.
        let spill = self.spill.as_ref().filter(|_| !self.strict)?;
        let now =
            !spill.is_empty() || !self.writer.store.is_flowing() || self.is_spilling.load(Relaxed);
        now.then_some(spill)
    }

    /// Whether anything is in the journal.
    pub(super) fn journal_holds_some(&self) -> bool {
        self.spill.as_ref().is_some_and(|spill| !spill.is_empty())
    }

    /// Puts what waits in the queue into the journal, if there is one. What does not fit stays in the queue; gives whether
    /// all did.
    pub(super) async fn spill_queue(&self) -> bool {
        let Some(spill) = self.spill.as_ref().filter(|_| !self.strict) else {
            return false;
        };
        // One after the other: a mark must not overtake its row on the way to the journal.
        let _one_at_a_time = self.spilling.lock().await;
        if spill.is_stuck() {
            return false;
        }
        let on_its_way = OnItsWay::new(&self.is_spilling);
        let (rows, marks) = self.writer.queue().take_all();
        let rows = rows.into_iter().map(|row| Entry::Failed(Box::new(row)));
        let marks = marks.into_iter().map(|(position, mark, at_ms)| match mark {
            Mark::Passed => Entry::Passed { position, at_ms },
            Mark::Succeeded => Entry::Succeeded {
                range: single(&position),
                at_ms,
            },
        });
        let left = spill.append(rows.chain(marks).collect()).await;
        let all = left.is_empty();
        for entry in left {
            match entry {
                Entry::Failed(row) => self.writer.put_back(*row),
                Entry::Passed { position, at_ms } => {
                    self.writer.queue_mark(&position, Mark::Passed, at_ms);
                }
                Entry::Succeeded { range, at_ms } => {
                    let position = range.partition.at(range.from);
                    self.writer.queue_mark(&position, Mark::Succeeded, at_ms);
                }
                Entry::Received(_) => {}
            }
        }
        drop(on_its_way);
        if self.writer.store.is_flowing() {
            // It is to be written back at once.
            self.wake.notify_one();
        }
        all
    }

    /// Waits until nothing is on its way to the journal.
    pub(super) async fn spilled(&self) {
        drop(self.spilling.lock().await);
    }

    /// The turn to write; none if the database is in trouble and nobody is to wait for it, or the journal comes first.
    pub(super) async fn take_turn(
        &self,
        deadline: Instant,
    ) -> (Option<Turn<'_>>, Option<StoreError>) {
        if !self.strict && (!self.writer.store.is_flowing() || self.spill_now().is_some()) {
            return (None, None);
        }
        match self.writer.turn(deadline).await {
            Ok(turn) => (Some(turn), None),
            Err(error) => (None, Some(error)),
        }
    }
}
