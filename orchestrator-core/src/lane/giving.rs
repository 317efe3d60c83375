//! What a lane gives out to units of work, in order, and what comes back of it. Part of the lane.

use std::collections::VecDeque;

use super::Lane;
use super::piece::{Entry, Piece, State, Tried, Waiting, size, size_of_done};
use crate::ports::UnitSlice;

impl Lane {
    /// Takes the next part that is ready off the front: at most `max_records` of it, and one record more than
    /// `max_bytes` of all it keeps and `max_output_bytes` of outputs.
    pub fn take_ready(
        &mut self,
        max_records: usize,
        max_bytes: usize,
        max_output_bytes: usize,
    ) -> Option<UnitSlice> {
        if self.stop.is_some() {
            return None;
        }
        let max_records = self.narrow.unwrap_or(usize::MAX).min(max_records).max(1);
        if self
            .pieces
            .front()
            .is_some_and(|piece| piece.fits(max_records, max_bytes.min(max_output_bytes)))
        {
            return self.take_whole();
        }
        let piece = self.pieces.front_mut()?;
        let entries = piece.state.entries()?;
        let mut done = Vec::with_capacity(entries.len().min(max_records));
        let (mut bytes, mut output_bytes) = (0, 0);
        while done.len() < max_records
            && bytes < max_bytes
            && output_bytes < max_output_bytes
            && matches!(entries.front(), Some(Entry::Done(_)))
        {
            if let Some(entry) = entries.pop_front() {
                bytes += size(&entry);
                if let Entry::Done(ready) = entry {
                    output_bytes += ready.fate.output_bytes();
                    done.push(ready);
                }
            }
        }
        if done.is_empty() && !entries.is_empty() {
            return None;
        }
        let next = entries.front().map_or(piece.next, Entry::offset);
        let from = std::mem::replace(&mut piece.from, next);
        let whole = entries.is_empty();
        self.still = None;
        piece.bytes -= bytes;
        self.bytes -= bytes;
        self.known -= done.len();
        self.given_out = next;
        if whole {
            self.pieces.pop_front();
        }
        Some(UnitSlice {
            partition: self.partition.clone(),
            epoch: self.epoch,
            from,
            next,
            done,
        })
    }

    /// Takes the first piece, all of which is ready.
    fn take_whole(&mut self) -> Option<UnitSlice> {
        let piece = self.pieces.pop_front()?;
        let State::Ready(done) = piece.state else {
            self.pieces.push_front(piece);
            return None;
        };
        self.bytes -= piece.bytes;
        self.known -= done.len();
        self.given_out = piece.next;
        self.still = None;
        Some(UnitSlice {
            partition: self.partition.clone(),
            epoch: self.epoch,
            from: piece.from,
            next: piece.next,
            done,
        })
    }

    /// Puts back what was taken last and could not be committed; later parts first.
    pub fn put_back(&mut self, slice: UnitSlice) {
        let bytes = slice.done.iter().map(size_of_done).sum();
        self.bytes += bytes;
        self.known += slice.done.len();
        self.given_out = slice.from;
        self.pieces.push_front(Piece {
            from: slice.from,
            next: slice.next,
            bytes,
            state: State::Ready(slice.done),
        });
    }

    /// The first record was ready to be given out, and was judged anew.
    pub fn replace_first(&mut self, tried: Tried) {
        let Some(Piece { bytes, state, .. }) = self.pieces.front_mut() else {
            return;
        };
        let Some(entry) = state.entries().and_then(VecDeque::front_mut) else {
            return;
        };
        if !matches!(entry, Entry::Done(_)) {
            return;
        }
        let size_before = size(entry);
        let waiting = match tried {
            Tried::Done(done) => {
                *entry = Entry::Done(done);
                None
            }
            Tried::Waiting(waiting) => {
                *entry = Entry::Waiting(waiting.clone());
                Some(waiting)
            }
        };
        let size_after = size(entry);
        *bytes = *bytes - size_before + size_after;
        self.bytes = self.bytes - size_before + size_after;
        if let Some(waiting) = waiting {
            self.note_waiting(&waiting);
        }
    }

    /// Gives out only half as many records at once as were refused together, until one is found to blame.
    pub fn narrow(&mut self, refused: usize) {
        self.narrow = Some((refused / 2).max(1));
    }

    /// What was given out is committed up to `next`: widen again, and forget what was to be told of it.
    pub fn committed(&mut self, next: i64) {
        self.narrow = self.narrow.and_then(|n| (n < 4096).then_some(n * 2));
        self.stops = 0;
        self.tried = self.tried.split_off(&next);
    }

    /// What was known of a record before it was tried again and came out well, until that is committed.
    pub fn tried_before(&self, offset: i64) -> Option<&Waiting> {
        self.tried.get(&offset)
    }
}
