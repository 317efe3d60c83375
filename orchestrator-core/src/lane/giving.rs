//! What a lane gives out to units of work, in order, and what comes back of it. Part of the lane.

use super::Lane;
use super::piece::{Entry, Piece, State, Tried, Waiting, size_of_done};
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
        let piece = self.pieces.front_mut()?;
        let taken = piece.take(max_records, max_bytes, max_output_bytes)?;
        if piece.state.len() == 0 {
            self.pieces.pop_front();
        }
        self.still = None;
        self.bytes -= taken.bytes;
        self.known -= taken.done.len();
        self.given_out = taken.next;
        Some(UnitSlice {
            partition: self.partition.clone(),
            epoch: self.epoch,
            from: taken.from,
            next: taken.next,
            done: taken.done,
            mark: None,
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
        let first = self.pieces.front_mut().and_then(|p| p.state.entries());
        if let Some(offset) = first.and_then(|entries| Some(entries.front()?.offset())) {
            self.replace(offset, tried, |first| matches!(first, Entry::Done(_)));
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
