//! What an audit says in the end: counts, and findings. Made by the auditor, printed and compared by callers.

use std::fmt;

use serde::Serialize;

use super::Finding;

/// What was counted, since the audit began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Records of the sources that the group has passed and that were judged.
    pub records: u64,
    /// Of them, those whose outputs are there.
    pub came_out: u64,
    /// Of them, those that have no outputs, and need not.
    pub filtered: u64,
    /// Of them, those that are dead letters or rows of the ledger.
    pub failed: u64,
    /// Records of the sources that were read and are not judged yet.
    pub waiting: u64,
    /// Records of the targets.
    pub outputs: u64,
    /// Dead letters of this group.
    pub dead_letters: u64,
    /// Judged records that the ledger has as FAILED.
    pub ledger_rows: u64,
    /// Outputs and dead letters of records before the start of the audit.
    pub older: u64,
    /// Dead letters of other groups, or of topics that are not audited.
    pub foreign: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records passed: {} came out, {} filtered, {} failed; {} waiting; \
             {} outputs, {} dead letters, {} ledger rows",
            self.records,
            self.came_out,
            self.filtered,
            self.failed,
            self.waiting,
            self.outputs,
            self.dead_letters,
            self.ledger_rows,
        )?;
        if self.older > 0 {
            write!(f, "; {} of records before the start", self.older)?;
        }
        if self.foreign > 0 {
            write!(f, "; {} dead letters of others", self.foreign)?;
        }
        Ok(())
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// What was counted.
    pub counts: Counts,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}
