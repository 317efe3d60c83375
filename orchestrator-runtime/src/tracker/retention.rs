//! The retention: deletes SUCCESS rows that are old enough, a few at a time. Part of the upkeep. It never deletes
//! rows that an operator may still want to do something about: the store sees to that.

use std::time::Duration;

use orchestrator_core::{FailureStore, StoreError, StoreErrorClass};
use tokio::time::{Instant, sleep};

use super::built_in::State;
use super::pace::Pace;
use super::upkeep::{timed, with_jitter};
use super::writer::Writer;
use crate::clock::now_ms;

/// How long after the start, and how often.
const FIRST_AFTER: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_secs(600);
/// When it goes on after trouble.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// The least pause between two statements.
const PAUSE: Duration = Duration::from_millis(50);
/// When it begins with the oldest rows again: some become SUCCESS when others as old are long deleted.
const ALL_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The shortest time whose rows one statement looks through, in milliseconds.
const LEAST_SPAN: i64 = 60_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Retention {
    /// For so long rows are kept.
    pub(super) keep: Duration,
}

/// How far old rows are deleted. Pure.
#[derive(Debug)]
struct Pruned {
    /// Rows created before are.
    from: i64,
    /// So much time one statement looks through at most: among very many rows that stay it is slow to find others.
    span: i64,
}

impl Pruned {
    fn nothing() -> Self {
        Self {
            from: 0,
            span: i64::MAX,
        }
    }

    /// When rows were created that are next; `None` if all that are older than `old` are done.
    fn next(&self, old: i64) -> Option<std::ops::Range<i64>> {
        (self.from < old).then(|| self.from..self.from.saturating_add(self.span).min(old))
    }

    /// There are no more in `range`.
    fn done(&mut self, range: &std::ops::Range<i64>) {
        self.from = range.end;
        self.span = self.span.saturating_mul(2);
    }

    /// A statement about `range` took too long.
    fn too_slow(&mut self, range: &std::ops::Range<i64>) {
        self.span = ((range.end - range.start) / 8).max(LEAST_SPAN);
    }
}

impl State {
    pub(super) async fn keep_pruning(&self, retention: &Retention) {
        let mut pruned = Pruned::nothing();
        let mut pace = Pace::gentle(self.writer.store.rows_per_statement(), self.upkeep.timeout);
        let mut all_again = Instant::now() + ALL_AGAIN_AFTER;
        let mut next = FIRST_AFTER;
        loop {
            sleep(with_jitter(next)).await;
            if Instant::now() >= all_again {
                all_again = Instant::now() + ALL_AGAIN_AFTER;
                pruned = Pruned::nothing();
            }
            next = match self.prune(retention, &mut pruned, &mut pace).await {
                Ok(true) => EVERY,
                Ok(false) => RETRY_AFTER,
                Err(error) => {
                    tracing::debug!(%error, "the retention goes on later");
                    RETRY_AFTER
                }
            };
        }
    }

    /// Deletes what is old; `false` if there is trouble, or failures wait.
    async fn prune(
        &self,
        retention: &Retention,
        pruned: &mut Pruned,
        pace: &mut Pace,
    ) -> Result<bool, StoreError> {
        let Writer {
            store,
            ledger,
            health,
            ..
        } = &self.writer;
        let keep = i64::try_from(retention.keep.as_millis()).unwrap_or(i64::MAX);
        let old = now_ms().saturating_sub(keep);
        let mut rows = 0;
        while let Some(range) = pruned.next(old) {
            if !self.is_quiet() {
                return Ok(false);
            }
            let limit = pace.rows();
            let (deleted, took) = timed(store.prune(ledger, range.clone(), limit)).await;
            pace.took(limit, took, deleted.is_err());
            if deleted.as_ref().is_err_and(is_too_slow) {
                pruned.too_slow(&range);
            }
            let deleted = deleted?;
            rows += deleted;
            health.metrics().rows_pruned(deleted);
            if deleted < limit as u64 {
                pruned.done(&range);
            }
            self.rest(PAUSE, took).await;
        }
        if rows > 0 {
            tracing::debug!(rows, "old SUCCESS rows were deleted from the ledger");
        }
        Ok(true)
    }
}

fn is_too_slow(error: &StoreError) -> bool {
    error.class == StoreErrorClass::Timeout
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
