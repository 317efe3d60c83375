//! What a lane takes in, and tries until it is known what becomes of it. Part of the lane; the tries themselves are the
//! worker's.

use std::time::Instant;

use super::Lane;
use super::piece::{
    ENTRY_OVERHEAD, Entry, Piece, State, Tried, Waiting, entry_at, size, size_of_done,
};
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
        let mut tried = tried.into_iter();
        let mut bytes = 0;
        let mut ready = Vec::with_capacity(tried.size_hint().0);
        let mut waits = None;
        for tried in tried.by_ref() {
            match tried {
                Tried::Done(done) => {
                    bytes += size_of_done(&done);
                    ready.push(done);
                }
                Tried::Waiting(waiting) => {
                    waits = Some(waiting);
                    break;
                }
            }
        }
        let mut state = State::Ready(ready);
        if let Some(first) = waits
            && let Some(entries) = state.entries()
        {
            for tried in std::iter::once(Tried::Waiting(first)).chain(tried) {
                let entry = match tried {
                    Tried::Done(done) => Entry::Done(done),
                    Tried::Waiting(waiting) => Entry::Waiting(waiting),
                };
                bytes += size(&entry);
                entries.push_back(entry);
            }
        }
        let results = match &state {
            State::Transforming(_) => 0,
            State::Ready(ready) => ready.len(),
            State::Mixed(entries) => entries.len(),
        };
        if results != records {
            return;
        }
        if let State::Mixed(entries) = &state {
            for entry in entries {
                if let Entry::Waiting(waiting) = entry {
                    self.note_waiting(waiting);
                }
            }
        }
        self.known += results;
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

    pub(super) fn note_waiting(&mut self, waiting: &Waiting) {
        let offset = waiting.record.offset();
        self.braked += usize::from(waiting.reason == HoldReason::SkipBrake);
        if waiting.reason.tries_all() {
            self.retries.insert((waiting.due, offset));
        } else {
            self.blocked.insert(offset, waiting.due);
        }
    }

    /// A record that was tried again has come out.
    pub fn retried(&mut self, offset: i64, tried: Tried) {
        let Some((entry, bytes)) = entry_at(&mut self.pieces, offset) else {
            return;
        };
        let Entry::Trying(before) = entry else {
            return;
        };
        let was_blocked = !before.reason.tries_all();
        let was_braked = before.reason == HoldReason::SkipBrake;
        let before = before.clone();
        let size_before = size(entry);
        *entry = match &tried {
            Tried::Done(done) => {
                if matches!(done.fate, Fate::Outputs(_)) {
                    self.tried.insert(offset, *before);
                }
                Entry::Done(done.clone())
            }
            Tried::Waiting(waiting) => Entry::Waiting(waiting.clone()),
        };
        let size_after = size(entry);
        *bytes = *bytes - size_before + size_after;
        self.bytes = self.bytes - size_before + size_after;
        self.trying -= 1;
        self.braked -= usize::from(was_braked);
        if was_blocked {
            self.trying_blocked = false;
        }
        if let Tried::Waiting(waiting) = &tried {
            self.note_waiting(waiting);
        }
    }
}
