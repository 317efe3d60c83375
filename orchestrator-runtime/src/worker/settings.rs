//! What a worker is told, and what it tells.

use std::time::Duration;

use orchestrator_core::dead_letter::DlqTopic;
use orchestrator_core::lane::Held;
use orchestrator_core::quarantine::Quarantine;
use orchestrator_core::{FailureClass, Policy, SourcePartition, Topic};

use super::pending::Size;
use super::stage::{Hung, StageSettings};

/// The settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The decisions' settings.
    pub policy: Policy,
    /// The consumer group, for dead letters.
    pub consumer_group: String,
    /// `ORCH_TARGET_TOPIC`.
    pub target_topic: Option<Topic>,
    /// `ORCH_DLQ_TOPIC`.
    pub dlq_topic: Option<DlqTopic>,
    /// How transforms are run.
    pub stage: StageSettings,
    /// The least time between two commits.
    pub commit_interval: Duration,
    /// The most records of a unit of work.
    pub max_records: usize,
    /// The most bytes (records and outputs) of a unit of work.
    pub max_bytes: usize,
    /// The most bytes of its outputs.
    pub max_output_bytes: usize,
    /// The most outputs of one record.
    pub max_outputs_per_record: usize,
    /// Whether outputs carry the dedup key as a header.
    pub output_dedup_header: bool,
    /// The most bytes that wait behind held records.
    pub held_max_bytes: usize,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// How records that end the process are found, if they are.
    pub quarantine: Option<Quarantine>,
    /// Seeds the jitter.
    pub seed: u64,
}

impl WorkerSettings {
    /// How much more a unit may take that has this size.
    pub(super) fn room_beside(&self, size: Size) -> Size {
        Size {
            records: self.max_records.saturating_sub(size.records),
            bytes: self.max_bytes.saturating_sub(size.bytes),
            output_bytes: self.max_output_bytes.saturating_sub(size.output_bytes),
        }
    }

    /// Whether a unit of that size is within the limits.
    pub(super) fn fits(&self, size: Size) -> bool {
        size.records <= self.max_records
            && size.bytes <= self.max_bytes
            && size.output_bytes <= self.max_output_bytes
    }
}

/// What a worker tells as it goes: metrics and health listen. Called per batch or rarer.
pub trait WorkerObserver: Send {
    /// A partition came.
    fn assigned(&mut self, _partition: &SourcePartition, _next: i64) {}
    /// A partition went.
    fn revoked(&mut self, _partition: &SourcePartition) {}
    /// Records were taken in, up to `next`.
    fn taken(&mut self, _partition: &SourcePartition, _next: i64, _records: usize) {}
    /// Everything there is was read.
    fn caught_up(&mut self, _partition: &SourcePartition) {}
    /// The transformer is done with some records.
    fn transformed(&mut self, _took: Duration) {}
    /// A try failed.
    fn failed(&mut self, _class: FailureClass) {}
    /// A record is tried again.
    fn retried(&mut self) {}
    /// A record was found to end the process each time it is transformed.
    fn quarantined(&mut self) {}
    /// Records passed by a commit, their outputs and dead letters.
    fn committed(&mut self, _counts: &Counts) {}
    /// The committed offset of a partition that is owned moved on to `next`.
    fn progressed(&mut self, _partition: &SourcePartition, _next: i64) {}
    /// A unit of so many records was committed, wholly or in part, so long after it was submitted.
    fn unit_committed(&mut self, _records: usize, _took: Duration) {}
    /// A partition goes back to an offset.
    fn rewound(&mut self, _partition: &SourcePartition, _to: i64) {}
    /// The state of a partition, told from time to time: held, or flowing; and the bytes kept of it.
    fn held(&mut self, _partition: &SourcePartition, _held: Option<Held<'_>>, _bytes: usize) {}
    /// The bytes of all records and outputs that are not committed yet, told from time to time.
    fn in_flight(&mut self, _bytes: usize) {}
    /// The synchronous transforms that hang.
    fn hung(&mut self, _hung: &[Hung]) {}
}

impl WorkerObserver for () {}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records whose outputs were committed.
    pub ok: u64,
    /// Outputs committed, dead letters not among them.
    pub outputs: u64,
    /// Records passed as failed.
    pub failed: u64,
    /// Dead letters committed.
    pub dead_letters: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.ok += other.ok;
        self.outputs += other.outputs;
        self.failed += other.failed;
        self.dead_letters += other.dead_letters;
    }
}
