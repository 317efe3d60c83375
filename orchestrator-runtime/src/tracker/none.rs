//! The strategy NONE: failures are logged and counted, and nothing else is kept. Driven by the worker.

use std::future::ready;

use crate::metrics::LedgerMetrics;
use orchestrator_core::{BoxFuture, FailureRecord, FailureTracker, Passed, TrackerError};

/// So many failures of one call get a log line of their own; the rest are summed up.
const MAX_LOG_LINES: usize = 20;

/// Logs and counts failures.
#[derive(Debug)]
pub struct NoTracker {
    metrics: LedgerMetrics,
}

impl NoTracker {
    /// A tracker whose metrics carry this `pipeline` label.
    pub fn new(pipeline: &str) -> Self {
        Self::counting(LedgerMetrics::new(pipeline))
    }

    pub(super) fn counting(metrics: LedgerMetrics) -> Self {
        Self { metrics }
    }
}

impl FailureTracker for NoTracker {
    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        for failed in failures {
            self.metrics.failure_logged(failed.failure.class.as_str());
        }
        for failed in failures.iter().take(MAX_LOG_LINES) {
            let failure = &failed.failure;
            tracing::warn!(
                dedupKey = %failed.record.dedup_key(),
                class = failure.class.as_str(),
                stage = failure.stage.as_str(),
                attempts = failure.attempts,
                error = %failure.message,
                "record failed; ORCH_DB_STRATEGY=NONE keeps no row of it"
            );
        }
        if let Some(more) = failures
            .len()
            .checked_sub(MAX_LOG_LINES)
            .filter(|more| *more > 0)
        {
            tracing::warn!(more, "more records failed in the same unit of work");
        }
        Box::pin(ready(Ok(())))
    }

    fn committed<'a>(&'a self, _passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(ready(Ok(())))
    }
}
