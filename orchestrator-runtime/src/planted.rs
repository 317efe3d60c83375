//! Bugs that the test suite must catch, planted by the test-only feature `test-faults`. Without the feature
//! `planted` is always false and costs nothing.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Offsets are not sent to the transaction.
    NoSendOffsets,
    /// The consumer commits what it has read, whatever becomes of it.
    CommittedByConsumer,
    /// Group metadata is taken when offsets are sent, and nobody looks whose the partitions are by then.
    MetadataTakenAtCommit,
    /// Partitions are kept though the group has expelled us and taken us back as another member.
    ExpulsionIgnored,
    /// When partitions are lost in the middle of a transaction, their outputs are committed all the same.
    NoAbortOnLoss,
    /// What was transformed before a partition was lost is committed once it is back.
    KeptOverLoss,
    /// A partition that comes is read from behind the record that holds it.
    HeldSkipped,
    /// The ledger hears of a commit before it is made.
    SuccessBeforeCommit,
    /// A failure is passed before the ledger has heard of it.
    FailureAfterCommit,
    /// What the ledger is told late overwrites what is newer.
    OlderRowOverwrites,
    /// What a dead process left in the spill journal is thrown away.
    SpillTruncated,
    /// The last offset is committed instead of the next.
    LastInsteadOfNext,
    /// An error of `send` is ignored.
    SendErrorIgnored,
    /// The transaction is committed though sending its offsets failed.
    CommitAfterFailedSendOffsets,
    /// A producer is kept where it must be replaced.
    ProducerKept,
    /// A producer is kept whose commit may come once more, because its connection was cut.
    ProducerKeptAfterCut,
    /// After an unknown outcome the broker is not asked.
    RewindFromMemory,
    /// The gate lets a slice pass that does not follow.
    GateLetsHolesPass,
}

#[cfg(not(feature = "test-faults"))]
#[inline(always)]
pub(crate) fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "test-faults")]
pub use armed::plant;
#[cfg(feature = "test-faults")]
pub(crate) use armed::planted;

#[cfg(feature = "test-faults")]
mod armed {
    use std::cell::Cell;
    use std::sync::LazyLock;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// For child processes: the name of the bug, as `Debug` writes it.
    static FROM_ENV: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("ORCHESTRATOR_PLANTED_BUG").ok());

    /// Plants a bug in code that runs on this thread.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
            || FROM_ENV
                .as_ref()
                .is_some_and(|name| *name == format!("{bug:?}"))
    }
}
