//! What keeps the ledger tidy: the safeguard and the retention, in a background task of their own, so that neither
//! delays the writing of rows. Both take small steps, with pauses, and none while the database is in trouble or
//! failures wait for it. Spawned by the strategy; safe in every process at once. They must never add to trouble.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::{Passed, SourcePartition, SourcePosition, StoreError, Taken};
use tokio::time::{Instant, sleep};

use super::LedgerSettings;
use super::built_in::State;
use super::owned::{Owned, of_passed};
use super::retention::Retention;
use super::safeguard::Safeguard;

/// See the module.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// Of OUTBOX and RELIABLE only: nobody else writes rows that may stay RECEIVED.
    pub(super) safeguard: Option<Safeguard>,
    pub(super) retention: Option<Retention>,
    /// What a statement may take.
    pub(super) timeout: Duration,
}

impl Upkeep {
    pub(super) fn new(settings: &LedgerSettings, notes_received: bool) -> Self {
        let stale = settings.safeguard_stale.filter(|_| notes_received);
        Self {
            safeguard: stale.map(|stale| Safeguard {
                owned: Mutex::new(Owned::new(stale)),
                stale,
                of_passed: of_passed(settings.only_success_passes),
            }),
            retention: settings.retention.map(|keep| Retention { keep }),
            timeout: settings.timeout,
        }
    }

    pub(super) fn assigned(&self, starts: &[SourcePosition]) {
        let Some(safeguard) = &self.safeguard else {
            return;
        };
        let now = Instant::now();
        for start in starts {
            // Not all at once, where many processes get theirs at the same time.
            let due = now + with_jitter(safeguard.stale);
            safeguard.owned().assigned(start, now, due);
        }
    }

    pub(super) fn revoked(&self, partitions: &[SourcePartition]) {
        if let Some(safeguard) = &self.safeguard {
            let mut owned = safeguard.owned();
            partitions
                .iter()
                .for_each(|partition| owned.revoked(partition));
        }
    }

    /// To be told before the rows of these records are written.
    pub(super) fn received(&self, taken: &[Taken]) {
        if let Some(safeguard) = &self.safeguard {
            safeguard.owned().received(taken);
        }
    }

    /// To be told when all that the database is to hear of this commit is waiting.
    pub(super) fn committed(&self, passed: &Passed) {
        if let Some(safeguard) = &self.safeguard {
            safeguard.owned().committed(passed);
        }
    }
}

impl Safeguard {
    pub(super) fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The background task.
    pub(super) async fn keep_up(self: Arc<Self>) {
        let settle = async {
            if let Some(safeguard) = &self.upkeep.safeguard {
                self.keep_settling(safeguard).await;
            }
        };
        let prune = async {
            if let Some(retention) = &self.upkeep.retention {
                self.keep_pruning(retention).await;
            }
        };
        tokio::join!(settle, prune);
    }

    /// Whether the database is well, and has all the failures there are. If nothing waits at all, nobody else finds
    /// out that it is well again: then our next statement is the probe.
    pub(super) fn is_quiet(&self) -> bool {
        let store = &self.writer.store;
        let is_well = store.is_flowing() || (store.refusal().is_none() && self.is_idle());
        is_well && self.writer.queue().is_idle() && !self.journal_holds_some()
    }

    /// Leaves the database alone for at least `least` after a statement that took so long: longer while others need it.
    pub(super) async fn rest(&self, least: Duration, took: Duration) {
        let share = if self.is_idle() { 2 } else { 10 };
        sleep(least.max(took * share)).await;
    }
}

/// A statement's result, and how long it took.
pub(super) async fn timed<T>(
    statement: impl Future<Output = Result<T, StoreError>>,
) -> (Result<T, StoreError>, Duration) {
    let started = Instant::now();
    let result = statement.await;
    (result, started.elapsed())
}

/// Up to a tenth longer, so that processes do not do the same at the same time.
pub(super) fn with_jitter(time: Duration) -> Duration {
    time + time.mul_f64(fastrand::f64() / 10.0)
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
