//! What the ledger hears of units of work: failures before the commit that passes them, then the commit. While it takes
//! some the worker goes on, and whatever has failed meanwhile is taken next, together. Part of the worker.

use std::collections::BTreeSet;

use orchestrator_core::ports::{Committer, Session};
use orchestrator_core::{HoldReason, Passed, SourcePartition, TrackerError, Transformer};
use tokio_util::task::AbortOnDropHandle;

use super::Worker;
use super::noting::BROKE_DOWN;
use super::settings::WorkerObserver;

type Taking = AbortOnDropHandle<Result<(), TrackerError>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// The partitions whose failures are being taken, and the call.
    failures: Option<(BTreeSet<SourcePartition>, Taking)>,
    /// The call that tells of a commit.
    passed: Option<AbortOnDropHandle<()>>,
}

impl Recording {
    /// Whether failures are being taken.
    pub(super) fn is_busy(&self) -> bool {
        self.failures.is_some()
    }

    /// Waits until the ledger has taken the failures, or has refused to.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub(super) async fn done(&mut self) -> Result<(), TrackerError> {
        match &mut self.failures {
            Some((_, task)) => task.await.unwrap_or_else(|_| {
                Err(TrackerError {
                    message: BROKE_DOWN.to_owned(),
                })
            }),
            None => std::future::pending().await,
        }
    }

    /// Waits until the ledger has heard of the last commit.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub(super) async fn heard(&mut self) {
        if let Some(task) = &mut self.passed {
            if task.await.is_err() {
                tracing::warn!("{BROKE_DOWN} over a commit");
            }
            self.passed = None;
        }
    }
}

impl<S, C, T, O> Worker<S, C, T, O>
where
    S: Session,
    C: Committer,
    T: Transformer,
    O: WorkerObserver,
{
    /// Has the ledger take the failures of what has left the lanes, unless it is still at those before.
    pub(super) fn start_recording(&mut self) {
        if self.recording.is_busy() {
            return;
        }
        let failures = self.pending.record();
        if failures.is_empty() {
            return;
        }
        let partitions = failures.iter().map(|it| it.record.partition().clone());
        let partitions = partitions.collect();
        let tracker = self.tracker.clone();
        let task = tokio::spawn(async move { tracker.failed(&failures).await });
        self.recording.failures = Some((partitions, AbortOnDropHandle::new(task)));
    }

    /// The failures are taken, and what stands with them may be committed; or they are not, and their partitions are
    /// held.
    pub(super) fn recorded(&mut self, taken: Result<(), TrackerError>) {
        let Some((partitions, _)) = self.recording.failures.take() else {
            return;
        };
        if let Err(error) = taken {
            self.stop_lanes(&partitions, HoldReason::Database, &error.message);
        }
        self.pending.recorded();
    }

    /// Tells the ledger of a commit: of one at a time, so that no more wait than it can take.
    pub(super) async fn start_telling(&mut self, passed: Passed) {
        self.recording.heard().await;
        let tracker = self.tracker.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = tracker.committed(&passed).await {
                tracing::warn!(%error, "the ledger was not told of a commit");
            }
        });
        self.recording.passed = Some(AbortOnDropHandle::new(task));
    }
}
