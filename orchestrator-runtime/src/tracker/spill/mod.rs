//! The spill journal: what could not be written to the ledger's database waits here, on disk, across restarts, until
//! it can. Filled by the ledger's writer before the commit that passes it, emptied by its background task. All of it
//! blocks on files, so that none of it may be called where that matters. It must never lose an entry that it took,
//! nor let the folder grow beyond its bound.
//!
//! JSON Lines, to be read by people too; what a line looks like is in `format.rs`:
//! ```text
//! {"format":"orchestrator-spill","version":1,"cluster_id":"4L6g..","consumer_group":"orders","crc":"0f3d5c1e"}
//! {"entry":"failed","topic":"orders","partition":3,"offset":17,..,"payload":{"base64":"/w=="},"crc":"8d01a6b2"}
//! {"entry":"passed","topic":"orders","partition":3,"offset":17,"at_ms":1764000000000,"crc":"55c2b7f0"}
//! {"entry":"succeeded","topic":"orders","partition":3,"offset":18,"next":40,"at_ms":1764000000000,"crc":"c0ffee00"}
//! ```
//! `jq -cR 'fromjson? | select(.entry == "failed") | {topic, offset, error_message}' spill-*.jsonl` reads it while it
//! is being written, a torn last line included.
//!
//! How far it has been read is kept in memory only, because replaying an entry twice does no harm: after a crash a
//! segment is replayed from its start. There is no sync but at the end of a segment: an entry survives the process
//! from the moment it is appended, but maybe not a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{LedgerIdentity, OffsetRange, SourcePosition};

mod append;
mod blob;
mod drain;
mod error;
mod folder;
mod format;
mod segment;

use append::Tail;
pub(super) use error::SpillError;
use folder::{Folder, Lock, SegmentId};
use segment::{MakeFile, Place, Segment, make_file};

use crate::planted::{Bug, planted};

/// What happened to a record, or to many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It was taken.
    Received(Box<LedgerRow>),
    /// It failed for good.
    Failed(Box<LedgerRow>),
    /// The offset of a failed record was committed.
    Passed {
        /// The record.
        position: SourcePosition,
        /// When, in milliseconds since 1970.
        at_ms: i64,
    },
    /// All records of a range succeeded and are committed.
    Succeeded {
        /// Their offsets.
        range: OffsetRange,
        /// When, in milliseconds since 1970.
        at_ms: i64,
    },
}

/// Entries that were read and are not done.
#[derive(Debug)]
pub(super) struct Batch {
    /// The entries, in the order in which they are to be replayed.
    pub(super) entries: Vec<Entry>,
    until: Vec<(SegmentId, Place)>,
}

/// See the module.
pub(super) struct Journal {
    folder: Folder,
    ledger: LedgerIdentity,
    max_bytes: u64,
    /// The one that we write.
    journal: String,
    /// Of our own journal and of those that we took over.
    locks: BTreeMap<String, Lock>,
    /// Journals that are not for us to take over.
    foreign: BTreeSet<String>,
    /// Those that could not be taken over, which the log has been told.
    troubled: BTreeSet<String>,
    /// Of all our journals; the older ones first.
    segments: BTreeMap<SegmentId, Segment>,
    tail: Option<Tail>,
    last_number: i64,
    /// What other processes' journals took when we last looked.
    others_bytes: u64,
    written_since_scan: u64,
    damaged: u64,
    /// The lines of a write.
    buffer: Vec<u8>,
    make_file: MakeFile,
}

impl Journal {
    /// A journal of our own in `dir`, with what dead processes of the same ledger left there. All journals of the
    /// ledger there together take `max_bytes` at most, give or take a MiB for each process that writes at the same time.
    ///
    /// # Errors
    /// The folder cannot be made, read or written to, or supports no locks.
    pub(super) fn open(
        dir: &Path,
        ledger: &LedgerIdentity,
        max_bytes: u64,
    ) -> Result<Self, SpillError> {
        Self::open_with(dir, ledger, max_bytes, make_file())
    }

    fn open_with(
        dir: &Path,
        ledger: &LedgerIdentity,
        max_bytes: u64,
        make_file: MakeFile,
    ) -> Result<Self, SpillError> {
        if planted(Bug::SpillTruncated) {
            std::fs::remove_dir_all(dir).ok();
        }
        let folder = Folder::open(dir, ledger)?;
        let (journal, lock) = folder.new_journal()?;
        let mut opened = Self {
            folder,
            ledger: ledger.clone(),
            max_bytes,
            locks: BTreeMap::from([(journal.clone(), lock)]),
            journal,
            foreign: BTreeSet::new(),
            troubled: BTreeSet::new(),
            segments: BTreeMap::new(),
            tail: None,
            last_number: 0,
            others_bytes: 0,
            written_since_scan: 0,
            damaged: 0,
            buffer: Vec::new(),
            make_file,
        };
        opened.adopt()?;
        Ok(opened)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.values().all(Segment::is_over)
    }

    /// How many entries wait, damaged ones included as long as nobody has come to them.
    pub(super) fn rows(&self) -> u64 {
        let waiting = self.segments.values().filter(|segment| !segment.is_over());
        waiting.map(Segment::rows).sum()
    }

    /// What the files take that are ours or that we took over, without those of other processes.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.len).sum()
    }

    /// How many lines were found damaged and skipped.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.end_tail();
        if !self.has_segments(&self.journal)
            && let Some(Err(error)) = self.locks.remove(&self.journal).map(Lock::remove)
        {
            tracing::debug!(%error, "an empty spill journal stays");
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("folder", &self.folder)
            .field("journal", &self.journal)
            .field("rows", &self.rows())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod rate_tests;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod tests;
