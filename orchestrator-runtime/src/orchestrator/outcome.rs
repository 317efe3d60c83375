//! How a run ends: as it was asked to, or not. Given by `run`; `main` makes exit codes of it.

use crate::worker::settings::Counts;

/// A run that came to its end as it was asked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// What was committed.
    pub counts: Counts,
    /// Partitions that were held, and left so.
    pub held_partitions: usize,
    /// Whether `ORCH_DRAIN_TIMEOUT_MS` passed before everything was committed.
    pub timed_out: bool,
}

impl std::ops::AddAssign for Drained {
    fn add_assign(&mut self, other: Self) {
        self.counts += other.counts;
        self.held_partitions += other.held_partitions;
        self.timed_out |= other.timed_out;
    }
}

/// Why a run ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A poison record under `ORCH_ATOMIC_ON_POISON=STOP`.
    #[error("stopped on poison at {record}; fix the transformer, or set ORCH_DEAD_LETTER_RECORDS")]
    StoppedOnPoison {
        /// Its position and error.
        record: String,
        /// What was done before.
        drained: Drained,
    },
    /// Another process runs with the same explicit `ORCH_INSTANCE_ID`.
    #[error("fenced by a twin: another process has the same ORCH_INSTANCE_ID ({error})")]
    Fenced {
        /// What was said.
        error: String,
        /// What was done before.
        drained: Drained,
    },
    /// The transformer could not be opened.
    #[error("the transformer could not be opened: {0}")]
    Open(String),
    /// The ledger could not be started, for a reason that no waiting would change.
    #[error("the failure ledger cannot be started: {0}")]
    Ledger(String),
    /// A worker panicked, which is a bug of the runtime, or failed while it was drained, so that what it had under way
    /// is left.
    #[error("a worker ended unexpectedly: {error}")]
    Worker {
        /// What was said.
        error: String,
        /// What the others did before.
        drained: Drained,
    },
}

impl RunError {
    /// What was done before it ended.
    pub fn drained(&self) -> Drained {
        match self {
            Self::StoppedOnPoison { drained, .. }
            | Self::Fenced { drained, .. }
            | Self::Worker { drained, .. } => *drained,
            Self::Open(_) | Self::Ledger(_) => Drained::default(),
        }
    }
}
