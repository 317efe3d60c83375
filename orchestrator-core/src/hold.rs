//! Held partitions: why one waits while all others flow. Shown in health and metrics; set by the worker.

use std::fmt;

/// Why a partition is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HoldReason {
    /// A record failed transiently and waits for its next attempt.
    RetryBackoff,
    /// Something the transformer or the target needs is down or missing.
    Infrastructure,
    /// A poison record under `ORCH_ATOMIC_ON_POISON=BLOCK`.
    Poison,
    /// The ledger did not take a failure and nothing may pass unrecorded.
    Database,
    /// The committed offset no longer exists in the source.
    OffsetLost,
    /// The dead-letter topic is missing or forbidden.
    DlqMissing,
    /// Too many records fail transiently at once: nothing is skipped until that ends.
    SkipBrake,
    /// The broker refuses what would be committed.
    CommitRefused,
}

impl HoldReason {
    /// All reasons, for metrics that show each.
    pub const ALL: [Self; 8] = [
        Self::RetryBackoff,
        Self::Infrastructure,
        Self::Poison,
        Self::Database,
        Self::OffsetLost,
        Self::DlqMissing,
        Self::SkipBrake,
        Self::CommitRefused,
    ];

    /// The name used in metrics and health.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RetryBackoff => "retry_backoff",
            Self::Infrastructure => "infrastructure",
            Self::Poison => "poison",
            Self::Database => "database",
            Self::OffsetLost => "offset_lost",
            Self::DlqMissing => "dlq_missing",
            Self::SkipBrake => "skip_brake",
            Self::CommitRefused => "commit_refused",
        }
    }

    /// Whether every record that waits for this is tried when it is due, and not only the first of its partition. The
    /// skip brake is released by those that succeed, which need not be the first.
    pub fn tries_all(self) -> bool {
        matches!(self, Self::RetryBackoff | Self::SkipBrake)
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
