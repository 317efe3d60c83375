//! What the worker needs of a source and of a sink: `Session` hands over records, `Committer` commits units of
//! work. Implemented over Kafka by the runtime and over a model broker by its tests; positions are
//! (source, partition, i64) with gaps allowed, so that other sources and sinks fit.

use std::future::Future;

use crate::failure::FailureRecord;
use crate::output::{Output, Outputs};
use crate::quarantine::Mark;
use crate::record::{Record, SourcePartition, Topic};

/// Ours, one per partition: it moves whenever the partition comes, goes, or is put at another position.
/// Never repeats within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// Records of one partition, in order, gathered together.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The partition.
    pub partition: SourcePartition,
    /// The assignment epoch they were read in.
    pub epoch: Epoch,
    /// The position this slice begins at: where the one before it ended. The first record may lie further on.
    pub from: i64,
    /// The position after it.
    pub next: i64,
    /// The records, never empty.
    pub records: Vec<Record>,
}

/// What a session tells beside records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// A partition came, and is read from `position`.
    Assigned {
        /// The partition.
        partition: SourcePartition,
        /// Its new epoch.
        epoch: Epoch,
        /// The position it starts from.
        position: i64,
        /// Whether that position must be committed now, because the group had none and it must be remembered.
        remember: bool,
        /// What an earlier life said of the records from there on.
        mark: Option<Mark>,
    },
    /// A partition went (or its position was lost).
    Revoked {
        /// The partition.
        partition: SourcePartition,
    },
    /// The committed offset no longer exists: the partition is owned, but nothing of it is read.
    OffsetLost {
        /// The partition.
        partition: SourcePartition,
        /// Its epoch.
        epoch: Epoch,
        /// The offset that was committed.
        committed: i64,
        /// The first offset there is.
        low: i64,
        /// The offset after the last there is.
        high: i64,
    },
    /// The end of a partition was reached: nothing is left to read for now.
    CaughtUp {
        /// The partition.
        partition: SourcePartition,
    },
    /// The session cannot go on.
    Failed(SessionFailure),
}

/// Why a session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionFailure {
    /// Another process has taken our identity.
    Fenced(String),
    /// Anything else: a new session may do better.
    Broken(String),
}

/// What [`Session::next`] gives: what happened first, then what was read.
#[derive(Debug, Default)]
pub struct Intake {
    /// What happened, in order; applies before the slices.
    pub events: Vec<SessionEvent>,
    /// What was read, all of the current epochs.
    pub slices: Vec<Slice>,
}

/// A source of records that are handed over batch by batch.
pub trait Session: Send {
    /// Waits for events or, if `want_records`, records.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    fn next(&mut self, want_records: bool) -> impl Future<Output = Intake> + Send;

    /// Stops reading a partition. What was gathered of it before may still arrive.
    fn pause(&mut self, partition: &SourcePartition, epoch: Epoch);

    /// Reads a paused partition again, from `at`; what was gathered of it before is dropped.
    fn resume(&mut self, partition: &SourcePartition, epoch: Epoch, at: i64);

    /// Leaves. Nothing of it is to be committed any more.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// A record on its way into a unit of work, with what became of it.
#[derive(Clone, Debug)]
pub struct Done {
    /// The record.
    pub record: Record,
    /// What became of it.
    pub fate: Fate,
}

/// What becomes of a record when its unit commits.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Its outputs are written.
    Outputs(Outputs),
    /// It is passed as failed: recorded in the ledger, and dead-lettered if there is a letter.
    Failed(Box<FailedFate>),
}

/// A record that is passed as failed.
#[derive(Clone, Debug)]
pub struct FailedFate {
    /// What the ledger keeps.
    pub failure: FailureRecord,
    /// The dead letter that is written in the same transaction.
    pub dead_letter: Option<Output>,
    /// Whether the ledger has it already.
    pub recorded: bool,
}

impl Fate {
    /// The records to be written for it.
    pub fn outputs(&self) -> &[Output] {
        match self {
            Self::Outputs(outputs) => outputs.as_slice(),
            Self::Failed(failed) => failed.dead_letter.as_slice(),
        }
    }

    /// The bytes of their values.
    pub fn output_bytes(&self) -> usize {
        let values = self.outputs().iter().filter_map(Output::value);
        values.map(<[u8]>::len).sum()
    }
}

/// One partition's part of a unit of work.
#[derive(Clone, Debug)]
pub struct UnitSlice {
    /// The partition.
    pub partition: SourcePartition,
    /// The epoch its records were read in.
    pub epoch: Epoch,
    /// The position it begins at: it must be where the partition stands.
    pub from: i64,
    /// The next offset, committed with it.
    pub next: i64,
    /// Its records, in order; none if only the position is to be remembered, or a mark set.
    pub done: Vec<Done>,
    /// What is said, with that offset, of the records after it.
    pub mark: Option<Mark>,
}

/// What commits together: outputs, dead letters and next offsets. A partition may have several slices, in order.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// The slices, in order per partition.
    pub slices: Vec<UnitSlice>,
}

/// What became of one slice of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceFate {
    /// It is committed.
    Committed,
    /// Its partition is no longer ours in that epoch; it was left out.
    Stripped,
    /// Its fate was unknown, and the broker says that the partition stands at this offset: read again from there.
    Rewind {
        /// The committed offset.
        to: i64,
    },
    /// The broker refuses to take one of its outputs. Nothing of it is committed.
    Refused {
        /// What it says of the output.
        error: String,
        /// The topic it refuses to write to.
        topic: Topic,
        /// Whether trying again could help.
        permanent: bool,
    },
    /// Its offset could not be committed, though those of other partitions could.
    Stuck {
        /// Why.
        error: String,
    },
}

/// What became of a unit: it is given back with one fate a slice, in order.
#[derive(Debug)]
pub struct Report {
    /// The unit as it was submitted, with what was added.
    pub unit: Unit,
    /// One fate per slice.
    pub fates: Vec<SliceFate>,
    /// Set if this committer can do nothing more.
    pub ended: Option<SessionFailure>,
}

/// What is known of a topic that is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicFacts {
    /// It exists.
    Known {
        /// The largest record batch it takes, in bytes.
        max_message_bytes: usize,
    },
    /// It does not exist.
    Missing,
    /// We may not write to it.
    Forbidden,
}

/// What a committer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Outputs and next offsets appear together, once.
    ExactlyOnce,
    /// Outputs appear before next offsets, perhaps again.
    AtLeastOnce,
}

/// A sink that commits units of work, one at a time.
pub trait Committer: Send {
    /// What it promises.
    fn guarantee(&self) -> Guarantee;

    /// Hands over a unit. There must be none under way. It stays open for more until it is [sealed](Self::seal), or
    /// until the committer does not care to wait.
    fn submit(&mut self, unit: Unit);

    /// Adds to the unit under way, and leaves `more` empty, if that takes more still. Then it is part of that unit, and
    /// comes back in its report; if not, `more` is as it was.
    fn extend(&mut self, more: &mut Unit) -> bool;

    /// Says whether more records wait for the transformer than it can work on, which is worth keeping the unit under way
    /// open for longer: they wait anyhow. False for a unit that was just submitted.
    fn queued(&mut self, queued: bool);

    /// Says that the unit under way is whole.
    fn seal(&mut self);

    /// Waits for the report of the unit under way.
    ///
    /// Cancel safety: the report is not lost when the future is dropped.
    fn report(&mut self) -> impl Future<Output = Report> + Send;

    /// Looks up a topic that is written to; an error means that the broker could not be asked.
    fn topic_facts(
        &mut self,
        topic: &Topic,
    ) -> impl Future<Output = Result<TopicFacts, String>> + Send;

    /// Ends it; no unit may be under way.
    fn close(self) -> impl Future<Output = ()> + Send;
}
