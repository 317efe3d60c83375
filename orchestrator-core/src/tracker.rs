//! The ledger's two seams: a `FailureTracker` is a strategy (when to write what), a `FailureStore` is a database
//! (how to write it). Implemented by the runtime and by users; called by the worker, in this order:
//! `assigned`, then per batch `received`, `failed`, commit of the unit, `committed`.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use crate::failure::FailureRecord;
use crate::ledger_row::{LedgerRow, LedgerStatus};
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

/// Records of one partition, in order, that are about to be transformed.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The records, never empty.
    pub records: Vec<Record>,
    /// When the partition was assigned to us; see [`FailureRecord::fence`].
    pub fence: i64,
}

/// A strategy of the failure ledger: it hears what becomes of records, and keeps of it what it wants.
///
/// - **What is failed is provisional.** [`failed`](Self::failed) comes before the commit that passes the record, which may
///   come to nothing; [`committed`](Self::committed) says what was passed, and how. A record that is read again may
///   succeed, or fail once more: calls may be repeated for the same records, and must be idempotent.
/// - **Workers call at the same time**, each for partitions of its own, and of each partition in order.
/// - **Every call is bounded in time**, the built-in strategies' by `ORCH_DB_BATCH_BUDGET_MS`. A tracker of an
///   application's own is put under guard by the runtime: its calls run on a thread of their own, one that takes longer is
///   given up (its future is dropped), a panic is caught, and while it hangs again and again it is not called. So a call
///   may be missing: since commits are in order, a later one passes whatever lies before it too.
/// - **An error** says that something was not taken. With `ORCH_DB_DEGRADE_DONT_BLOCK=true` it is counted and logged, and
///   records go on; with `false` their partitions are held, and the call is made again later.
///
/// The example `webhook_tracker` of `orchestrator-runtime` is a complete one. The least there is:
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use orchestrator_core::{BoxFuture, FailureRecord, FailureTracker, Passed, TrackerError};
///
/// /// Counts the records that were passed as failures.
/// #[derive(Default)]
/// struct Count(AtomicUsize);
///
/// impl FailureTracker for Count {
///     fn failed<'a>(&'a self, _: &'a [FailureRecord]) -> BoxFuture<'a, Result<(), TrackerError>> {
///         Box::pin(async { Ok(()) })
///     }
///
///     fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
///         Box::pin(async {
///             self.0.fetch_add(passed.failures.len(), Ordering::Relaxed);
///             Ok(())
///         })
///     }
/// }
/// ```
pub trait FailureTracker: Send + Sync + 'static {
    /// The partitions now owned, with the offsets they start from. One that another worker of this process had may come
    /// without having been revoked.
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

    /// Records that are about to be transformed; a partition may come several times, in order. They are not
    /// transformed before this is done, and while it goes on other calls are made.
    fn received<'a>(&'a self, _taken: &'a [Taken]) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Records that failed for good, before the commit that passes them.
    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>>;

    /// A unit of work was committed.
    fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>>;

    /// Writes out what is still waiting; called at the end of a drain by each worker, bounded by what is left of
    /// `ORCH_DRAIN_TIMEOUT_MS`.
    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Whose ledger it is: rows of several clusters and groups may share one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerIdentity {
    /// The Kafka cluster's id.
    pub cluster_id: String,
    /// The consumer group.
    pub consumer_group: String,
}

/// What kind of trouble a store has, and so what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorClass {
    /// The database cannot be reached or used; counts towards opening the circuit.
    Unavailable,
    /// It did not answer in time, or somebody else held its lock for too long; counts too.
    Timeout,
    /// No connection was free in time: others use them all; counts too.
    Exhausted,
    /// A deadlock or a serialization failure: the same statement may work at once; counts if it goes on.
    Conflict,
    /// It refused what a row contains; never counts, and trying the same row again is useless.
    Data,
}

impl StoreErrorClass {
    /// The name used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Exhausted => "exhausted",
            Self::Conflict => "conflict",
            Self::Data => "data",
        }
    }
}

/// Why a store could not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// What kind of trouble it is.
    pub class: StoreErrorClass,
    /// What went wrong, with the remedy if there is one; no secrets, no payloads.
    pub message: String,
}

impl StoreError {
    /// An error of this class.
    pub fn new(class: StoreErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.class.as_str())
    }
}

impl std::error::Error for StoreError {}

/// What a statement of a [`FailureStore`] gives back.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A provisional FAILED row: whether its record was passed as a failure is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisional {
    /// The record's offset.
    pub offset: i64,
    /// The fence it was written with.
    pub fence: i64,
}

/// A RECEIVED row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedRow {
    /// The record's offset.
    pub offset: i64,
    /// When the row was last written.
    pub updated_at_ms: i64,
}

/// A page of a partition's rows, see [`FailureStore::received_page`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedPage {
    /// Those of them that are RECEIVED, in ascending order.
    pub rows: Vec<ReceivedRow>,
    /// Where the next page begins; `None` if this was the last one.
    pub next: Option<i64>,
}

/// What the safeguard makes of a row that has been RECEIVED for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// Its offset is committed, and it can only have succeeded: SUCCESS.
    Success,
    /// Its offset is committed, as a success or as a failure: UNKNOWN.
    Unknown,
    /// Its offset is not committed and nobody works on it: FAILED, provisional, of the class `stale`.
    Stale,
}

impl Settlement {
    /// What the row is then.
    pub fn status(self) -> LedgerStatus {
        match self {
            Self::Success => LedgerStatus::Success,
            Self::Unknown => LedgerStatus::Unknown,
            Self::Stale => LedgerStatus::Failed,
        }
    }
}

/// The `error_class` of rows settled as [`Settlement::Stale`].
pub const STALE_CLASS: &str = "stale";
/// The `error_message` of rows settled as [`Settlement::Stale`].
pub const STALE_MESSAGE: &str =
    "taken, and not heard of since: its process has ended or its partition moved";

/// A database that keeps the ledger. Strategies, time-outs, circuit breaker and metrics come free: a new database
/// is one new implementation of this trait. The example `in_memory_store` of `orchestrator-runtime` is a complete one, over
/// maps, that needs nothing but this crate.
///
/// Every method but [`prepare`](Self::prepare) is one statement, or one transaction of a few, on at most
/// [`rows_per_statement`](Self::rows_per_statement) rows with distinct positions; it takes effect whole or not at
/// all, and may be repeated. Times are milliseconds since 1970.
///
/// Nothing older overwrites what is newer: a row whose `fence` is less than the stored one's changes nothing, and
/// what became of records at `at_ms` changes no row whose fence is greater than that.
///
/// Cancel safety: a future may be dropped at any time (its time-out has passed); its statement may then still take
/// effect, and its connection must not be used again. A future must not block its thread, which is the pipeline's; a panic
/// is caught, and counts as an error.
pub trait FailureStore: Send + Sync + 'static {
    /// Connects and brings the tables up to date. Called until it works, before any statement; idempotent, and
    /// safe in several processes at once.
    fn prepare(&self) -> StoreFuture<'_, ()>;

    /// How many rows one statement takes at most.
    fn rows_per_statement(&self) -> usize {
        1000
    }

    /// How many statements may run at once.
    fn connections(&self) -> usize {
        1
    }

    /// Inserts records as RECEIVED: rows made by [`LedgerRow::received`], which have no error and no outcome. A row
    /// there already becomes RECEIVED again, not passed, if its fence is older.
    fn insert_received<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()>;

    /// Inserts records as FAILED, or makes the rows that are there FAILED. With the same fence, `passed_at` stays
    /// if it is set, and a row that is SUCCESS stays as it is; with a newer one it is what the row says.
    fn upsert_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()>;

    /// Sets `passed_at` of the provisional FAILED rows at these positions.
    fn pass_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        at_ms: i64,
    ) -> StoreFuture<'a, ()>;

    /// Turns the RECEIVED, the provisional FAILED and the UNKNOWN rows in these ranges into SUCCESS, passed at `at_ms`;
    /// those that had failed before are resolved then. There are at most [`rows_per_statement`](Self::rows_per_statement)
    /// ranges, and as many offsets in all.
    fn succeed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        at_ms: i64,
    ) -> StoreFuture<'a, ()>;

    /// The provisional FAILED rows of a partition, from `from` on, in ascending order, `limit` at most.
    fn provisional<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Provisional>>;

    /// Looks at the next `limit` rows of a partition, whatever their status, from `from` on in ascending order, and
    /// tells which of them are RECEIVED: for the safeguard. A store without it leaves such rows alone.
    fn received_page<'a>(
        &'a self,
        _ledger: &'a LedgerIdentity,
        _from: &'a SourcePosition,
        _limit: usize,
    ) -> StoreFuture<'a, ReceivedPage> {
        Box::pin(std::future::ready(Ok(ReceivedPage::default())))
    }

    /// Settles the rows at these positions that are still RECEIVED, and were last written before `before_ms`.
    fn settle<'a>(
        &'a self,
        _ledger: &'a LedgerIdentity,
        _positions: &'a [SourcePosition],
        _settlement: Settlement,
        _before_ms: i64,
        _now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Deletes SUCCESS rows created in `created_ms`, `limit` at most, and says how many: for the retention. Several
    /// processes may do it at once. A store without it keeps them.
    fn prune<'a>(
        &'a self,
        _ledger: &'a LedgerIdentity,
        _created_ms: Range<i64>,
        _limit: usize,
    ) -> StoreFuture<'a, u64> {
        Box::pin(std::future::ready(Ok(0)))
    }
}
