//! What a lane is made of: pieces of records taken in together, and what is known of each record. Used by the lane
//! only; nothing here decides anything.

use std::collections::VecDeque;
use std::time::Instant;

use crate::failure::Failure;
use crate::hold::HoldReason;
use crate::ports::{Done, Fate};
use crate::record::Record;

/// What a record costs in memory beside its payloads.
pub(super) const ENTRY_OVERHEAD: usize = 256;

/// A record that waits for its next try.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The record.
    pub record: Record,
    /// Its failure so far.
    pub failure: Failure,
    /// Failed tries of any kind in a row.
    pub in_a_row: u32,
    /// Why it waits.
    pub reason: HoldReason,
    /// When it is tried again.
    pub due: Instant,
}

/// What became of a record when it was tried. Nearly all are done, so that variant is not boxed.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Tried {
    /// It is ready for a unit.
    Done(Done),
    /// It waits.
    Waiting(Box<Waiting>),
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub(super) enum Entry {
    Done(Done),
    Waiting(Box<Waiting>),
    /// Being tried again.
    Trying(Box<Waiting>),
}

impl Entry {
    pub(super) fn offset(&self) -> i64 {
        match self {
            Self::Done(done) => done.record.offset(),
            Self::Waiting(waiting) | Self::Trying(waiting) => waiting.record.offset(),
        }
    }

    pub(super) fn record_mut(&mut self) -> &mut Record {
        match self {
            Self::Done(done) => &mut done.record,
            Self::Waiting(waiting) | Self::Trying(waiting) => &mut waiting.record,
        }
    }
}

#[derive(Debug)]
pub(super) enum State {
    /// So many records are with the transformer.
    Transforming(usize),
    /// All of them are done: nearly all pieces are so, and go into a unit as they are.
    Ready(Vec<Done>),
    /// Some wait, or some were given out.
    Mixed(VecDeque<Entry>),
}

impl State {
    /// Whether any of it is with the transformer.
    pub(super) fn is_tried(&self) -> bool {
        match self {
            Self::Transforming(_) => true,
            Self::Ready(_) => false,
            Self::Mixed(entries) => entries
                .iter()
                .any(|entry| matches!(entry, Entry::Trying(_))),
        }
    }

    /// The entries, if it is transformed.
    pub(super) fn entries(&mut self) -> Option<&mut VecDeque<Entry>> {
        if let Self::Ready(ready) = self {
            let entries = std::mem::take(ready).into_iter().map(Entry::Done);
            *self = Self::Mixed(entries.collect());
        }
        match self {
            Self::Mixed(entries) => Some(entries),
            Self::Transforming(_) | Self::Ready(_) => None,
        }
    }
}

/// Records taken in together.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) from: i64,
    pub(super) next: i64,
    pub(super) bytes: usize,
    pub(super) state: State,
}

impl Piece {
    /// Whether all of it is ready, and no more than that.
    pub(super) fn fits(&self, max_records: usize, max_bytes: usize) -> bool {
        matches!(&self.state, State::Ready(done) if done.len() <= max_records && self.bytes <= max_bytes)
    }
}

/// The entry of an offset, and the bytes of its piece.
pub(super) fn entry_at(
    pieces: &mut VecDeque<Piece>,
    offset: i64,
) -> Option<(&mut Entry, &mut usize)> {
    let at = pieces.partition_point(|piece| piece.next <= offset);
    let piece = pieces.get_mut(at)?;
    // Only records that wait are asked for.
    let State::Mixed(entries) = &mut piece.state else {
        return None;
    };
    let index = entries.binary_search_by_key(&offset, Entry::offset).ok()?;
    Some((&mut entries[index], &mut piece.bytes))
}

pub(super) fn size(entry: &Entry) -> usize {
    match entry {
        Entry::Done(done) => size_of_done(done),
        Entry::Waiting(waiting) | Entry::Trying(waiting) => ENTRY_OVERHEAD + waiting.record.size(),
    }
}

pub(super) fn size_of_done(done: &Done) -> usize {
    let fate = match &done.fate {
        Fate::Outputs(outputs) => outputs
            .as_slice()
            .iter()
            .map(|output| output.value().map_or(0, <[u8]>::len))
            .sum(),
        Fate::Failed(_) => done.record.size(),
    };
    ENTRY_OVERHEAD + done.record.size() + fate
}
