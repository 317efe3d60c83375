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

    pub(super) fn size(&self) -> usize {
        match self {
            Self::Done(done) => size_of_done(done),
            Self::Waiting(waiting) | Self::Trying(waiting) => {
                ENTRY_OVERHEAD + waiting.record.size()
            }
        }
    }

    pub(super) fn record_mut(&mut self) -> &mut Record {
        match self {
            Self::Done(done) => &mut done.record,
            Self::Waiting(waiting) | Self::Trying(waiting) => &mut waiting.record,
        }
    }
}

impl From<Tried> for Entry {
    fn from(tried: Tried) -> Self {
        match tried {
            Tried::Done(done) => Self::Done(done),
            Tried::Waiting(waiting) => Self::Waiting(waiting),
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
    /// What is known once all has been tried, and the bytes that it keeps.
    pub(super) fn of(tried: impl IntoIterator<Item = Tried>) -> (Self, usize) {
        let mut tried = tried.into_iter();
        let mut bytes = 0;
        let mut ready = Vec::with_capacity(tried.size_hint().0);
        while let Some(next) = tried.next() {
            match next {
                Tried::Done(done) => {
                    bytes += size_of_done(&done);
                    ready.push(done);
                }
                Tried::Waiting(_) => {
                    let before = ready.into_iter().map(Entry::Done);
                    let rest = std::iter::once(next).chain(tried).map(Entry::from);
                    let rest = rest.inspect(|entry| bytes += entry.size());
                    let entries = before.chain(rest).collect();
                    return (Self::Mixed(entries), bytes);
                }
            }
        }
        (Self::Ready(ready), bytes)
    }

    /// The records of it.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Transforming(records) => *records,
            Self::Ready(ready) => ready.len(),
            Self::Mixed(entries) => entries.len(),
        }
    }

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

/// What was taken off the front of a piece.
pub(super) struct Taken {
    pub(super) from: i64,
    pub(super) next: i64,
    pub(super) bytes: usize,
    pub(super) done: Vec<Done>,
}

impl Piece {
    /// Takes what is ready off its front, within the limits of [`Lane::take_ready`](super::Lane::take_ready). `None`
    /// if nothing is ready; a piece without records gives the position that it stands for.
    pub(super) fn take(
        &mut self,
        max_records: usize,
        max_bytes: usize,
        max_output_bytes: usize,
    ) -> Option<Taken> {
        if let State::Ready(ready) = &mut self.state
            && ready.len() <= max_records
            && self.bytes <= max_bytes.min(max_output_bytes)
        {
            return Some(Taken {
                from: std::mem::replace(&mut self.from, self.next),
                next: self.next,
                bytes: std::mem::take(&mut self.bytes),
                done: std::mem::take(ready),
            });
        }
        let entries = self.state.entries()?;
        let mut done = Vec::with_capacity(entries.len().min(max_records));
        let (mut bytes, mut output_bytes) = (0, 0);
        while done.len() < max_records
            && bytes < max_bytes
            && output_bytes < max_output_bytes
            && let Some(Entry::Done(ready)) =
                entries.pop_front_if(|entry| matches!(entry, Entry::Done(_)))
        {
            bytes += size_of_done(&ready);
            output_bytes += ready.fate.output_bytes();
            done.push(ready);
        }
        if done.is_empty() && !entries.is_empty() {
            return None;
        }
        let next = entries.front().map_or(self.next, Entry::offset);
        self.bytes -= bytes;
        Some(Taken {
            from: std::mem::replace(&mut self.from, next),
            next,
            bytes,
            done,
        })
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

pub(super) fn size_of_done(done: &Done) -> usize {
    let fate = match &done.fate {
        Fate::Outputs(_) => done.fate.output_bytes(),
        // What it may have for a dead letter is about as large.
        Fate::Failed(_) => done.record.size(),
    };
    ENTRY_OVERHEAD + done.record.size() + fate
}
