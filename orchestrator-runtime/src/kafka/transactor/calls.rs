//! What the transactor needs of a transactional producer: its calls and what their errors mean. Implemented over
//! librdkafka by `kafka/producer`, and over a model broker by the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use orchestrator_core::ports::Unit;
use orchestrator_core::quarantine::Mark;
use orchestrator_core::{Output, Record, SourcePartition, Topic};

use super::super::membership::Membership;

/// How long the poll thread may take to answer with fresh group metadata.
const REFRESH_PATIENCE: Duration = Duration::from_secs(2);

/// What a failed call means for the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnClass {
    /// The same call may be repeated with the same arguments; nothing is known to have failed.
    Repeat,
    /// The transaction must be aborted.
    Abort,
    /// The transaction must be aborted: the group has moved on (ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID).
    Membership,
    /// The producer is of no more use: a newer one has its transactional id, or the broker timed it out.
    Fenced,
    /// The producer is of no more use, for any other reason.
    Fatal,
}

/// A failed call.
#[derive(Clone, Debug)]
pub struct TxnError {
    /// What it means.
    pub class: TxnClass,
    /// What was said.
    pub message: String,
}

impl fmt::Display for TxnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An output that was not taken, by `send` or by the broker.
#[derive(Clone, Debug)]
pub struct RefusedOutput {
    /// The index it was sent with: which slice it belongs to.
    pub slice: usize,
    /// Where it was to go.
    pub topic: Topic,
    /// What was said.
    pub message: String,
    /// Whether this output (or its topic) is to blame, rather than the connection.
    pub blames_output: bool,
    /// Whether trying again could not help.
    pub permanent: bool,
}

/// What is committed of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextOffset {
    /// The partition.
    pub partition: SourcePartition,
    /// The next offset.
    pub next: i64,
    /// What is said of the records after it, in the commit metadata.
    pub mark: Option<Mark>,
}

/// A transactional producer with its transactional id, replaceable. Calls block, each within a bound of its own.
pub trait TransactionalProducer: Send {
    /// The consumer group metadata it takes.
    type Metadata: Send + Sync;

    /// Puts a new producer in the place of the old one (if any) and initialises it. To be repeated when it fails.
    fn replace(&mut self) -> Result<(), TxnError>;
    /// Begins a transaction.
    fn begin(&mut self) -> Result<(), TxnError>;
    /// Sends one output of `record`; `slice` comes back in a [`RefusedOutput`]. Waits while the queue is full.
    fn send(&mut self, slice: usize, record: &Record, output: &Output)
    -> Result<(), RefusedOutput>;
    /// Waits until every output is delivered or has failed, and gives those that failed.
    fn flush(&mut self) -> Result<Vec<RefusedOutput>, TxnError>;
    /// Sends the next offsets to the transaction.
    fn send_offsets(
        &mut self,
        offsets: &[NextOffset],
        metadata: &Self::Metadata,
    ) -> Result<(), TxnError>;
    /// Commits the transaction.
    fn commit(&mut self) -> Result<(), TxnError>;
    /// Aborts the transaction.
    fn abort(&mut self) -> Result<(), TxnError>;
    /// The group's committed offsets, once no transaction that could change them is open.
    fn committed(
        &mut self,
        partitions: &BTreeSet<SourcePartition>,
    ) -> Result<BTreeMap<SourcePartition, Option<i64>>, TxnError>;
    /// Whether a broker connection was lost since `begin`.
    fn disconnected(&self) -> bool;
    /// How long a transaction may stay open (`transaction.timeout.ms`).
    fn transaction_timeout(&self) -> Duration;
    /// The time.
    fn now(&self) -> Instant;
    /// Waits a little before something is tried again; `false` if there is to be no more trying.
    fn pause(&mut self, tries: u32) -> bool;
    /// Waits until the poll thread has taken group metadata since a snapshot ([`Membership::await_refresh`]), within
    /// bounds.
    fn await_refresh(&mut self, membership: &Membership<Self::Metadata>, taken: u64) {
        membership.await_refresh(taken, REFRESH_PATIENCE);
    }
}

/// What is added to a unit while its transaction is open.
pub trait Parts {
    /// What was added since; waits for it for a moment. After a `None` there is no more.
    fn next(&mut self) -> Option<Unit>;
    /// From now on nothing is added. Gives what was and was not yet taken.
    fn close(&mut self) -> Unit;
}

/// Nothing is added.
impl Parts for () {
    fn next(&mut self) -> Option<Unit> {
        None
    }
    fn close(&mut self) -> Unit {
        Unit::default()
    }
}

/// What the transactor tells whoever counts. Reasons are few and fixed: they are labels of metrics.
pub trait TransactorObserver: Send {
    /// A transaction was committed, so long after it was begun.
    fn committed(&mut self, _took: Duration) {}
    /// A transaction was aborted.
    fn aborted(&mut self, _reason: &'static str) {}
    /// The producer was replaced.
    fn replaced(&mut self, _reason: &'static str) {}
    /// A unit's part was left out at the gate.
    fn stripped(&mut self, _partition: &SourcePartition, _records: usize) {}
}

impl TransactorObserver for () {}
