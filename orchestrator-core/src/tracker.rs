//! The ledger's two seams: a `FailureTracker` is a strategy (when to write what), a `FailureStore` is a database
//! (how to write it). Implemented by the runtime and by users; called by the worker, in this order:
//! `assigned`, then per batch `received`, `failed`, commit of the unit, `committed`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::failure::FailureRecord;
use crate::record::{Record, SourcePartition, SourcePosition};

/// A boxed future: both traits are dyn-safe, and are called per batch, never per record.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The offsets `from..next` of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition.
    pub partition: SourcePartition,
    /// The first offset.
    pub from: i64,
    /// One past the last offset.
    pub next: i64,
}

impl OffsetRange {
    /// Whether `position` lies in it.
    pub fn contains(&self, position: &SourcePosition) -> bool {
        self.partition == position.partition && (self.from..self.next).contains(&position.offset)
    }
}

/// What one committed unit of work has passed.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// All offsets whose commit is certain.
    pub ranges: Vec<OffsetRange>,
    /// Those among them that were passed as failures, in order; every other record succeeded.
    pub failures: Vec<SourcePosition>,
}

/// Why the ledger did not take something. Only returned where nothing may pass unrecorded
/// (`ORCH_DB_DEGRADE_DONT_BLOCK=false`): the worker then holds the partitions and tries again.
#[derive(Debug)]
pub struct TrackerError {
    /// What went wrong, with the remedy; no secrets.
    pub message: String,
}

impl fmt::Display for TrackerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TrackerError {}

/// A strategy of the failure ledger. Every call is bounded in time by the implementation; the built-in ones are
/// bounded by `ORCH_DB_BATCH_BUDGET_MS`. Calls may be repeated for the same records and must be idempotent.
pub trait FailureTracker: Send + Sync + 'static {
    /// The partitions now owned, with the offsets they start from.
    fn assigned<'a>(
        &'a self,
        _starts: &'a [SourcePosition],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The partitions no longer owned.
    fn revoked<'a>(&'a self, _partitions: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether [`received`](Self::received) wants to be called.
    fn notes_received(&self) -> bool {
        false
    }

    /// Records of one partition that are about to be transformed.
    fn received<'a>(
        &'a self,
        _records: &'a [Record],
        _fence: i64,
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Records that failed for good, before the commit that passes them.
    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>>;

    /// A unit of work was committed.
    fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>>;

    /// Writes out what is still waiting; called at the end of a drain, bounded by its deadline.
    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
