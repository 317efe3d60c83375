//! What a lane takes in, and tries until it is known what becomes of it. Part of the lane; the tries themselves are the
//! worker's.

use std::time::Instant;

use super::Lane;
use super::piece::{ENTRY_OVERHEAD, Entry, Piece, State, Tried, Waiting, entry_at};
use crate::hold::HoldReason;
use crate::ports::Fate;
use crate::record::Record;

impl Lane {
    /// Takes in records, which are given to the transformer. `false` if they do not follow what was taken in
    /// (they were gathered before a pause, and are read again): nothing is changed then.
    pub fn take_in(&mut self, from: i64, next: i64, records: &[Record]) -> bool {
        if from != self.taken_in {
            return false;
        }
        let bytes = records.iter().map(|r| r.size() + ENTRY_OVERHEAD).sum();
        self.bytes += bytes;
        self.transforming += 1;
        self.taken_in = next;
        self.pieces.push_back(Piece {
            from,
            next,
            bytes,
            state: State::Transforming(records.len()),
        });
        true
    }

    /// The piece that begins at `from` is transformed. Unless there is one result a record it stays as it is: a
    /// record without a result must never be passed.
    pub fn transformed(&mut self, from: i64, tried: impl IntoIterator<Item = Tried>) {
        // One that only remembers a position may begin there too.
        let at = self.pieces.partition_point(|piece| piece.next <= from);
        let Some(Piece {
            state: State::Transforming(records),
            ..
        }) = self.pieces.get(at).filter(|piece| piece.from == from)
        else {
            return;
        };
        let records = *records;
        let (state, bytes) = State::of(tried);
        if state.len() != records {
            return;
        }
        if let State::Mixed(entries) = &state {
            for entry in entries {
                if let Entry::Waiting(waiting) = entry {
                    self.note_waiting(waiting.reason, waiting.due, entry.offset());
                }
            }
        }
        self.known += records;
        self.transforming -= 1;
        let piece = &mut self.pieces[at];
        self.bytes = self.bytes - piece.bytes + bytes;
        piece.bytes = bytes;
        piece.state = state;
    }

    /// The records whose next try is due, with what is known of them; they count as being tried from now on. Of a
    /// lane that does not read on only the first can be due.
    pub fn start_due(&mut self, now: Instant) -> Vec<Waiting> {
        let mut due = Vec::new();
        while let Some((at, offset)) = self.retries.first().copied()
            && at <= now
        {
            self.retries.pop_first();
            due.extend(self.start(offset));
        }
        if !self.trying_blocked
            && let Some((offset, at)) = self.blocked.first_key_value().map(|(o, at)| (*o, *at))
            && at <= now
        {
            self.blocked.pop_first();
            self.trying_blocked = true;
            due.extend(self.start(offset));
        }
        due
    }

    fn start(&mut self, offset: i64) -> Option<Waiting> {
        let entry = entry_at(&mut self.pieces, offset)?.0;
        let Entry::Waiting(waiting) = entry else {
            return None;
        };
        let waiting = waiting.clone();
        *entry = Entry::Trying(waiting.clone());
        self.trying += 1;
        Some(*waiting)
    }

    fn note_waiting(&mut self, reason: HoldReason, due: Instant, offset: i64) {
        self.braked += usize::from(reason == HoldReason::SkipBrake);
        if reason.tries_all() {
            self.retries.insert((due, offset));
        } else {
            self.blocked.insert(offset, due);
        }
    }

    /// A record that was tried again has come out.
    pub fn retried(&mut self, offset: i64, tried: Tried) {
        let is_well = matches!(&tried, Tried::Done(done) if matches!(done.fate, Fate::Outputs(_)));
        let is_trying = |entry: &Entry| matches!(entry, Entry::Trying(_));
        let Some(Entry::Trying(before)) = self.replace(offset, tried, is_trying) else {
            return;
        };
        self.trying -= 1;
        self.braked -= usize::from(before.reason == HoldReason::SkipBrake);
        if !before.reason.tries_all() {
            self.trying_blocked = false;
        }
        if is_well {
            self.tried.insert(offset, *before);
        }
    }

    /// Puts what became of a record in the place of what was known of it, if that is what is `expected`; gives it.
    pub(super) fn replace(
        &mut self,
        offset: i64,
        tried: Tried,
        expected: impl FnOnce(&Entry) -> bool,
    ) -> Option<Entry> {
        let (entry, bytes) = entry_at(&mut self.pieces, offset)?;
        if !expected(entry) {
            return None;
        }
        let waits = match &tried {
            Tried::Done(_) => None,
            Tried::Waiting(waiting) => Some((waiting.reason, waiting.due)),
        };
        let before = std::mem::replace(entry, tried.into());
        let (less, more) = (before.size(), entry.size());
        *bytes = *bytes - less + more;
        self.bytes = self.bytes - less + more;
        if let Some((reason, due)) = waits {
            self.note_waiting(reason, due, offset);
        }
        Some(before)
    }
}
