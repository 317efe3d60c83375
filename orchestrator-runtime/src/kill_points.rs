//! Places at which tests kill the process, as `kill -9` would: the test-only feature `test-faults` arms them. Without it
//! a point is nothing.

/// A place, by what was done last or is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillPoint {
    /// The worker has taken records in.
    Gathered,
    /// A transaction has begun.
    Begun,
    /// Some of the outputs of a unit are with the producer; passed once an output.
    Sending,
    /// The offsets are with the coordinator, deliveries are under way.
    OffsetsSent,
    /// All is delivered, nothing is committed.
    Delivered,
    /// The commit is on its way to the coordinator, or its answer is on its way back.
    Committing,
    /// The commit has been answered, and nobody knows of it yet.
    Committed,
    /// The worker has heard of the commit, and noted nothing.
    Reported,
    /// A transaction is about to be aborted.
    Aborting,
    /// A transaction was aborted.
    Aborted,
    /// Partitions are being given back, within the callback; no transaction uses them any more.
    Revoking,
    /// A producer is initialised; passed once for each of the two.
    Initialised,
    /// Rows are about to be written to the ledger.
    WritingRows,
    /// Rows were written to the ledger, and nobody knows of it yet.
    RowsWritten,
    /// Rows are about to be appended to the spill journal.
    Spilling,
    /// Rows were appended to the spill journal.
    Spilled,
    /// Rows of the journal were written to the ledger, and are still in the journal.
    BackFilled,
}

#[cfg(not(feature = "test-faults"))]
#[inline(always)]
pub(crate) fn kill_point(_point: KillPoint) {}

#[cfg(feature = "test-faults")]
pub(crate) use armed::kill_point;

#[cfg(feature = "test-faults")]
mod armed {
    use std::io::Write;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::KillPoint;

    /// A request to the coordinator takes some milliseconds, there and back.
    const ON_ITS_WAY: Duration = Duration::from_micros(1500);

    /// `Begun:3`: the third time that a transaction has begun.
    static CHOSEN: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let chosen = std::env::var("ORCHESTRATOR_KILL_POINT").ok()?;
        let (point, passes) = chosen.split_once(':')?;
        Some((point.to_owned(), passes.parse().ok()?))
    });
    static PASSES: AtomicU64 = AtomicU64::new(0);

    pub(crate) fn kill_point(point: KillPoint) {
        let Some((name, passes)) = &*CHOSEN else {
            return;
        };
        if *name != format!("{point:?}") || PASSES.fetch_add(1, Ordering::Relaxed) + 1 != *passes {
            return;
        }
        if point == KillPoint::Committing {
            std::thread::spawn(|| {
                std::thread::sleep(ON_ITS_WAY);
                kill();
            });
        } else {
            kill();
        }
    }

    fn kill() {
        writeln!(std::io::stderr(), "killed at a kill point").ok();
        kill_process(getpid(), Signal::KILL).ok();
        loop {
            std::thread::park();
        }
    }
}
