//! The journal's writing side: entries become lines, lines go to the last segment of our own. Called through
//! `Journal::append`. It must never leave half a line with more behind it.

use std::io;

use super::error::SpillError;
use super::folder::{self, Lock, SegmentId};
use super::segment::{Segment, SegmentFile};
use super::{Entry, Journal, format};
use crate::clock::now_us;

/// A segment that has grown so large gets no more lines.
pub(super) const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// So much is written in one go, and one entry more.
const WRITE_BYTES: usize = 1024 * 1024;
/// After so many bytes of ours we look again how much others have written; sooner where the bound is low.
const RESCAN_BYTES: u64 = 1024 * 1024;

/// The segment of our own that is being written.
pub(super) struct Tail {
    pub(super) id: SegmentId,
    file: Box<dyn SegmentFile>,
}

/// Why a write ends before the last entry.
enum Until {
    End,
    /// So that a write is not too large.
    Enough,
    /// The segment has no room for the next.
    SegmentFull,
    /// The folder has no room for the next.
    FolderFull,
}

impl Journal {
    /// Appends entries, and tells how many: fewer than all if `max_bytes` is reached, or if the disk refuses the rest.
    /// Calling again with the rest tells which.
    ///
    /// What is appended survives the process from now on, and a power cut once its segment is full.
    ///
    /// # Errors
    /// The disk takes nothing. Then nothing was appended.
    pub(in crate::tracker) fn append(&mut self, entries: &[Entry]) -> Result<usize, SpillError> {
        let mut appended = 0;
        while appended < entries.len() {
            match self.append_some(&entries[appended..]) {
                Ok(0) => break,
                Ok(n) => appended += n,
                Err(error) if appended == 0 => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "some entries were appended, the rest was refused");
                    break;
                }
            }
        }
        Ok(appended)
    }

    /// Appends as many as fit into one write.
    fn append_some(&mut self, entries: &[Entry]) -> Result<usize, SpillError> {
        if self.tail.is_none() {
            self.keep_lock_file()?;
        }
        let rescan_bytes = RESCAN_BYTES.min(self.max_bytes / 64);
        if self.tail.is_none() || self.written_since_scan >= rescan_bytes {
            self.scan_others()?;
        }
        let mut rescanned = false;
        loop {
            let (n, until) = self
                .fill_buffer(entries)
                .map_err(|error| SpillError::new("write to", self.folder.path(), error))?;
            match until {
                Until::SegmentFull if n == 0 => {
                    self.end_tail();
                    return self.append_some(entries);
                }
                Until::FolderFull if n == 0 && !rescanned => {
                    // Others may have made room.
                    self.scan_others()?;
                    rescanned = true;
                }
                _ => {
                    if n > 0 {
                        self.write_buffer(n)?;
                    }
                    return Ok(n);
                }
            }
        }
    }

    /// Fills the buffer with the header, should there be no segment, and as many lines as fit.
    fn fill_buffer(&mut self, entries: &[Entry]) -> io::Result<(usize, Until)> {
        let room = self
            .max_bytes
            .saturating_sub(self.others_bytes + self.bytes());
        let tail_len = self.tail.as_ref().and_then(|t| self.segments.get(&t.id));
        let tail_len = tail_len.map(|segment| segment.len);
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.shrink_to(WRITE_BYTES);
        if tail_len.is_none() {
            format::write_header(&self.ledger, buffer)?;
        }
        let mut is_first = tail_len.is_none();
        for (n, entry) in entries.iter().enumerate() {
            let before = buffer.len();
            format::write_entry(entry, buffer)?;
            let after = buffer.len() as u64;
            let until = if after > room {
                Until::FolderFull
            } else if tail_len.unwrap_or(0) + after > SEGMENT_BYTES && !is_first {
                Until::SegmentFull
            } else if buffer.len() > WRITE_BYTES && n > 0 {
                Until::Enough
            } else {
                is_first = false;
                continue;
            };
            buffer.truncate(before);
            return Ok((n, until));
        }
        Ok((entries.len(), Until::End))
    }

    /// Writes the buffer, whole or not at all.
    fn write_buffer(&mut self, entries: usize) -> Result<(), SpillError> {
        let tail = self.tail.take();
        let tail = tail.and_then(|tail| Some((self.segments.remove(&tail.id)?, tail)));
        let is_new = tail.is_none();
        let (mut segment, mut tail) = match tail {
            Some(tail) => tail,
            None => self.new_tail()?,
        };
        let len = segment.len;
        let written = tail.file.append(&self.buffer);
        let Err(error) = written else {
            let bytes = self.buffer.len() as u64;
            segment.grow(bytes, entries as u64 + u64::from(is_new));
            self.written_since_scan += bytes;
            self.segments.insert(tail.id.clone(), segment);
            self.tail = Some(tail);
            return Ok(());
        };
        let id = tail.id.clone();
        let error = SpillError::new("write to", &segment.path, error);
        if is_new {
            if let Err(error) = folder::remove(&segment.path) {
                tracing::warn!(%error, "half a segment of the spill journal stays");
            }
            return Err(error);
        }
        // Where the half that was written cannot be taken back, nothing may come behind it.
        match tail.file.cut(len) {
            Ok(()) => self.tail = Some(tail),
            Err(error) => {
                tracing::warn!(%error, file = %segment.path.display(), "half a line stays");
            }
        }
        self.segments.insert(id, segment);
        Err(error)
    }

    fn new_tail(&mut self) -> Result<(Segment, Tail), SpillError> {
        self.last_number = now_us().max(self.last_number + 1);
        let id = SegmentId {
            number: self.last_number,
            journal: self.journal.clone(),
        };
        let path = self.folder.segment_path(&id);
        let file = (self.make_file)(&path);
        let file = file.map_err(|error| SpillError::new("make", &path, error))?;
        Ok((Segment::new(path), Tail { id, file }))
    }

    /// Whoever cleans up old files may have removed ours: then others would take what we write for a dead process'.
    fn keep_lock_file(&mut self) -> Result<(), SpillError> {
        let lock = self.locks.get(&self.journal);
        if !lock.is_some_and(Lock::has_file) {
            self.folder.make()?;
            let (journal, lock) = self.folder.new_journal()?;
            self.locks.insert(journal.clone(), lock);
            self.journal = journal;
        }
        Ok(())
    }

    /// The next line goes to a new segment.
    pub(super) fn end_tail(&mut self) {
        let Some(mut tail) = self.tail.take() else {
            return;
        };
        if let Err(error) = tail.file.sync() {
            let file = self.folder.segment_path(&tail.id);
            tracing::warn!(%error, file = %file.display(), "a segment of the spill journal may not survive a power cut");
        }
    }

    /// Looks how much other processes' journals of the same ledger take.
    pub(super) fn scan_others(&mut self) -> Result<(), SpillError> {
        let listing = self.folder.list()?;
        let others = listing
            .segments
            .iter()
            .filter(|(id, _)| !self.locks.contains_key(&id.journal));
        self.others_bytes = others.map(|(_, len)| len).sum();
        self.written_since_scan = 0;
        Ok(())
    }
}
