//! The journal's reading side: what waits, oldest first, ours and what dead processes left. Called through `peek`,
//! `done` and `adopt`. It must never take a journal whose process lives, nor forget what is not done.

use std::fs::File;
use std::io;

use super::error::SpillError;
use super::folder::{self, Lock, SegmentId};
use super::format::Whose;
use super::segment::{Segment, Taken};
use super::{Batch, Journal};

/// A batch is not larger, but for its last entry, however many entries are asked for.
const MAX_PEEK_BYTES: u64 = 8 * 1024 * 1024;

impl Journal {
    /// The oldest entries, in order. They stay until the batch is [`done`](Self::done). An empty batch means that
    /// nothing waits.
    ///
    /// # Errors
    /// The process may open no more files, or one that holds nothing any more cannot be removed.
    pub(in crate::tracker) fn peek(&mut self, max_entries: usize) -> Result<Batch, SpillError> {
        loop {
            let batch = self.read(max_entries.max(1))?;
            // Nothing but damage: that is over and done with.
            if !batch.entries.is_empty() || batch.until.is_empty() {
                return Ok(batch);
            }
            self.done(batch)?;
        }
    }

    fn read(&mut self, max_entries: usize) -> Result<Batch, SpillError> {
        let mut taken = Taken::default();
        let mut until = Vec::new();
        let mut unreadable = Vec::new();
        for (id, segment) in &mut self.segments {
            if taken.entries.len() >= max_entries || taken.bytes >= MAX_PEEK_BYTES {
                break;
            }
            if segment.is_over() {
                continue;
            }
            let read = match File::open(&segment.path) {
                Ok(file) => segment.read(file, &mut taken, max_entries, MAX_PEEK_BYTES),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let (file, rows) = (segment.path.display(), segment.rows());
                    tracing::error!(%file, rows, "somebody removed a segment of the spill journal");
                    taken.damaged += rows;
                    until.push((id.clone(), segment.end()));
                    unreadable.push(id.clone());
                    continue;
                }
                Err(error) if is_want(&error) => {
                    return Err(SpillError::new("open", &segment.path, error));
                }
                Err(error) => Err(error),
            };
            match read {
                Ok(place) => until.push((id.clone(), place)),
                Err(error) => {
                    let file = segment.path.display();
                    tracing::error!(
                        %error, %file,
                        "a segment of the spill journal cannot be read; it stays, and is tried again after a restart"
                    );
                    segment.set_aside();
                    unreadable.push(id.clone());
                }
            }
        }
        // Nothing more is to be written where it could not be read again.
        if self
            .tail
            .as_ref()
            .is_some_and(|tail| unreadable.contains(&tail.id))
        {
            self.end_tail();
        }
        self.damaged += taken.damaged;
        Ok(Batch {
            entries: taken.entries,
            until,
        })
    }

    /// Forgets the entries of a batch. A file none of whose entries wait is removed.
    ///
    /// # Errors
    /// A file cannot be removed; that is tried again. Its entries do not come again before a restart.
    pub(in crate::tracker) fn done(&mut self, batch: Batch) -> Result<(), SpillError> {
        for (id, place) in &batch.until {
            if let Some(segment) = self.segments.get_mut(id) {
                segment.done(*place);
            }
        }
        self.remove_finished()
    }

    /// Removes what can be removed; gives back the first error.
    fn remove_finished(&mut self) -> Result<(), SpillError> {
        let finished = self.segments.iter().filter(|(_, s)| s.is_finished());
        let finished: Vec<SegmentId> = finished.map(|(id, _)| id.clone()).collect();
        let mut result = Ok(());
        for id in finished {
            let removed = self.remove_segment(&id);
            result = result.and(removed);
        }
        result
    }

    fn remove_segment(&mut self, id: &SegmentId) -> Result<(), SpillError> {
        folder::remove(&self.folder.segment_path(id))?;
        self.segments.remove(id);
        if self.tail.as_ref().is_some_and(|tail| tail.id == *id) {
            self.tail = None;
        }
        if id.journal == self.journal || self.has_segments(&id.journal) {
            return Ok(());
        }
        let lock = self.locks.remove(&id.journal);
        lock.map_or(Ok(()), Lock::remove)
    }

    pub(super) fn has_segments(&self, journal: &str) -> bool {
        self.segments.keys().any(|id| id.journal == journal)
    }

    /// Takes over the journals of the same ledger whose processes are dead, and tells how many. One that cannot be
    /// taken is left for the next time, with a line in the log.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(in crate::tracker) fn adopt(&mut self) -> Result<usize, SpillError> {
        let mut adopted = 0;
        for journal in self.folder.list()?.journals {
            if self.locks.contains_key(&journal) || self.foreign.contains(&journal) {
                continue;
            }
            match self.adopt_one(&journal) {
                Ok(rows) => adopted += usize::from(rows.is_some()),
                Err(error) => {
                    if self.troubled.insert(journal) {
                        tracing::warn!(%error, "a spill journal that a process left behind stays for now");
                    }
                }
            }
        }
        // Those that hold nothing.
        self.remove_finished()?;
        self.scan_others()?;
        Ok(adopted)
    }

    fn adopt_one(&mut self, journal: &str) -> Result<Option<u64>, SpillError> {
        let Some(lock) = self.folder.take(journal)? else {
            return Ok(None);
        };
        // Only now nobody changes them any more.
        let ids = self.folder.list()?.segments.into_keys();
        let mut segments = Vec::new();
        for id in ids.filter(|id| id.journal == journal) {
            let path = self.folder.segment_path(&id);
            let found = Segment::found(path.clone(), &self.ledger);
            match found.map_err(|error| SpillError::new("read", &path, error))? {
                Ok(segment) => segments.push((id, segment)),
                Err(whose) => {
                    if whose == Whose::TooNew {
                        let file = path.display();
                        tracing::warn!(%file, "a spill journal of a later version is left to that version");
                    }
                    self.foreign.insert(journal.to_owned());
                    return Ok(None);
                }
            }
        }
        if segments.is_empty() {
            lock.remove()?;
            return Ok(None);
        }
        let rows = segments.iter().map(|(_, segment)| segment.rows()).sum();
        tracing::info!(
            journal,
            rows,
            "took over the spill journal of a process that ended"
        );
        for (id, segment) in segments {
            self.last_number = self.last_number.max(id.number);
            self.segments.insert(id, segment);
        }
        self.locks.insert(journal.to_owned(), lock);
        Ok(Some(rows))
    }
}

/// Whether the process, or the machine, has too little of something just now. Whatever else keeps a file from being opened
/// is there as long as the file is.
fn is_want(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE))
}
