//! What health knows, as plain data: written by the setters in `mod.rs`, judged in `verdict.rs`.
//! Nothing here locks or reads a clock.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orchestrator_core::{SourcePartition, SourcePosition};

use crate::tracker::LedgerCounters;

/// Where a worker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Not yet in the group with a producer that is initialised.
    Starting {
        /// What it waits for, with the setting that may be wrong: `broker (ORCH_BOOTSTRAP_SERVERS)`.
        waits_for: Cow<'static, str>,
    },
    /// In the group, producer initialised; perhaps without any partition.
    Running,
    /// Finishing what it has, taking nothing new.
    Draining,
    /// Ended as it was told to: drained, or stopped on poison.
    Stopped {
        /// Why it ended.
        why: String,
    },
    /// Ended although nobody told it to.
    Died {
        /// Why it ended.
        why: String,
    },
}

impl WorkerState {
    /// Its name in `/health`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting { .. } => "STARTING",
            Self::Running => "RUNNING",
            Self::Draining => "DRAINING",
            Self::Stopped { .. } => "STOPPED",
            Self::Died { .. } => "DIED",
        }
    }

    /// What there is to say beside the name.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Starting { waits_for } => Some(waits_for),
            Self::Stopped { why } | Self::Died { why } => Some(why),
            Self::Running | Self::Draining => None,
        }
    }

    /// Whether it will never run again.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Died { .. })
    }
}

/// Why a partition is held, and what sets it free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldView {
    /// The reason: few and fixed, since it is a metric's label.
    pub reason: &'static str,
    /// The offset it waits at.
    pub offset: i64,
    /// Since when.
    pub since: Instant,
    /// When it is tried again; `None` waits for the operator.
    pub next_try: Option<Instant>,
    /// Tries so far.
    pub attempts: u32,
    /// The error; no secrets.
    pub error: String,
    /// The setting or the deed that frees it; see [`dead_letter_remedy`].
    pub remedy: Option<String>,
    /// Bytes kept in memory for it.
    pub bytes: u64,
}

/// The setting that frees a partition held at `position` by dead-lettering exactly that record.
pub fn dead_letter_remedy(position: &SourcePosition) -> String {
    let SourcePosition { partition, offset } = position;
    format!(
        "ORCH_DEAD_LETTER_RECORDS={}:{}:{offset}",
        partition.topic, partition.partition
    )
}

/// One owned partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// The next offset that was taken from the source.
    pub taken: i64,
    /// The next offset that was committed.
    pub committed: i64,
    /// When the committed offset last moved.
    pub last_progress: Option<Instant>,
    /// Since when records are taken without any progress; `None` if there are none, or while held.
    pub waiting_since: Option<Instant>,
    /// Offsets to the end, if known.
    pub lag: Option<i64>,
    /// Why it is held, if it is.
    pub held: Option<HeldView>,
}

impl PartitionView {
    pub(super) fn starting_at(next: i64) -> Self {
        Self {
            taken: next,
            committed: next,
            ..Self::default()
        }
    }

    pub(super) fn take(&mut self, next: i64, now: Instant) {
        self.taken = next;
        self.wait(self.waiting_since.unwrap_or(now));
    }

    pub(super) fn commit(&mut self, next: i64, now: Instant) {
        self.committed = next;
        self.taken = self.taken.max(next);
        self.last_progress = Some(now);
        self.wait(now);
    }

    pub(super) fn rewind(&mut self, next: i64, now: Instant) {
        self.taken = next;
        self.committed = next;
        self.wait(now);
    }

    pub(super) fn set_held(&mut self, held: Option<HeldView>, now: Instant) {
        self.held = held;
        self.wait(now);
    }

    /// The stall clock runs from `since` while records are taken that are not committed; never while held.
    fn wait(&mut self, since: Instant) {
        let waits = self.taken > self.committed && self.held.is_none();
        self.waiting_since = waits.then_some(since);
    }
}

/// One worker.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Where it stands.
    pub state: WorkerState,
    /// Its partitions.
    pub partitions: BTreeMap<SourcePartition, PartitionView>,
    /// Synchronous transforms past their deadline.
    pub hung: usize,
    /// When its poll thread last came round, if it ever did.
    pub last_poll: Option<Instant>,
}

impl Default for WorkerView {
    fn default() -> Self {
        Self {
            state: WorkerState::Starting {
                waits_for: Cow::Borrowed("its threads"),
            },
            partitions: BTreeMap::new(),
            hung: 0,
            last_poll: None,
        }
    }
}

/// What is known of the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Broker {
    /// Nothing yet.
    #[default]
    Unknown,
    /// At least one answers.
    Reachable {
        /// Since when.
        since: Instant,
    },
    /// None answers.
    Unreachable {
        /// Since when.
        since: Instant,
        /// What they were last heard to say; no secrets.
        error: String,
    },
}

/// What is known of the failure ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LedgerState {
    /// The strategy is NONE.
    #[default]
    Off,
    /// It is written as it should be.
    Up,
    /// Records flow, or wait, although it cannot be written.
    Degraded {
        /// Why; no secrets.
        reason: String,
    },
}

/// Everything at one moment: what the verdicts are made of.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The consumer group.
    pub pipeline: String,
    /// The workers, by number.
    pub workers: Vec<WorkerView>,
    /// The brokers.
    pub broker: Broker,
    /// The ledger.
    pub ledger: LedgerState,
    /// What the ledger has done, if there is one.
    pub ledger_counters: Option<LedgerCounters>,
    /// `ORCH_STALL_TIMEOUT_MS`.
    pub stall_timeout: Duration,
}
