//! A lane: one partition's records in order, from intake to unit of work. It knows what is being transformed, what
//! is ready, and what the partition waits for. Pure; owned and driven by the worker.

mod piece;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::hold::HoldReason;
use crate::ports::{Epoch, Fate, UnitSlice};
use crate::record::{Record, SourcePartition};

use piece::{ENTRY_OVERHEAD, Entry, Piece, State, entry_at, size, size_of_done};
pub use piece::{Tried, Waiting};

/// A wait of the whole lane, whatever its records are.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Why.
    pub reason: HoldReason,
    /// What was said.
    pub error: String,
    /// How often in a row.
    pub in_a_row: u32,
    /// When it is tried again; never by itself if `None`.
    pub due: Option<Instant>,
}

/// What a held lane shows to operators.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    /// Why it waits.
    pub reason: HoldReason,
    /// The offset it waits at.
    pub offset: i64,
    /// Tries so far.
    pub attempts: u32,
    /// What was said.
    pub error: &'a str,
    /// When it is tried again.
    pub due: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    partition: SourcePartition,
    epoch: Epoch,
    /// Moves with each rewind: what was given to the transformer before means other pieces.
    life: u32,
    pieces: VecDeque<Piece>,
    /// The position up to which records were taken in.
    taken_in: i64,
    /// The position up to which records were given out.
    given_out: i64,
    bytes: usize,
    /// Waiting records that are tried whatever is before them, by when they are due.
    retries: BTreeSet<(Instant, i64)>,
    /// Waiting records that everything behind them waits for, by offset: only the first is ever tried.
    blocked: BTreeMap<i64, Instant>,
    /// Records being tried again, and whether one of them was blocked.
    trying: usize,
    trying_blocked: bool,
    /// Pieces with the transformer.
    transforming: usize,
    /// Transformed records: for the skip brake.
    known: usize,
    stop: Option<Stop>,
    /// The most records given out at once, while a refused one is looked for.
    narrow: Option<usize>,
    paused: bool,
    /// Since when nothing was given out though there is something, as far as anybody looked.
    still: Option<Instant>,
    /// Records that wait or are tried again under the skip brake.
    braked: usize,
    /// Stops since anything was committed.
    stops: u32,
    /// Records that came out well when they were tried again, and are not committed yet: what was known before.
    tried: BTreeMap<i64, Waiting>,
}

impl Lane {
    /// The lane of a partition that is read from `position`.
    pub fn new(partition: SourcePartition, epoch: Epoch, position: i64) -> Self {
        Self {
            partition,
            epoch,
            life: 0,
            pieces: VecDeque::new(),
            taken_in: position,
            given_out: position,
            bytes: 0,
            retries: BTreeSet::new(),
            blocked: BTreeMap::new(),
            trying: 0,
            trying_blocked: false,
            transforming: 0,
            known: 0,
            stop: None,
            narrow: None,
            paused: false,
            still: None,
            braked: 0,
            stops: 0,
            tried: BTreeMap::new(),
        }
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Which of its lives this is: results of records taken in in an earlier one are void.
    pub fn life(&self) -> u32 {
        self.life
    }

    /// The bytes it keeps.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The position up to which records were taken in: where reading goes on after a pause.
    pub fn taken_in(&self) -> i64 {
        self.taken_in
    }

    /// The position up to which records were given out: where a rewind loses nothing.
    pub fn given_out(&self) -> i64 {
        self.given_out
    }

    /// The bytes it keeps beside the record it waits for.
    pub fn bytes_behind(&self) -> usize {
        let first = match self.pieces.front().map(|piece| &piece.state) {
            Some(State::Mixed(entries)) => entries.front().map_or(0, size),
            _ => 0,
        };
        self.bytes - first
    }

    /// For how long nothing was given out though there is something.
    pub fn still_for(&mut self, now: Instant) -> Duration {
        if self.pieces.is_empty() {
            self.still = None;
            return Duration::ZERO;
        }
        now - *self.still.get_or_insert(now)
    }

    /// Whether it has been [still](Self::still_for) for `time` at `now`.
    pub fn is_still(&self, now: Instant, time: Duration) -> bool {
        self.still.is_some_and(|since| now - since >= time)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Records that wait after a failure, and all whose fate is known or waits: see `Policy::brake_bites`.
    pub fn tally(&self) -> (usize, usize) {
        (
            self.retries.len() + self.blocked.len() + self.trying,
            self.known,
        )
    }

    /// Whether the worker has paused reading it; kept here, with the rest of what is known of the partition.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Notes that reading is paused or not.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

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

    fn note_waiting(&mut self, waiting: &Waiting) {
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

    /// How often it was stopped since anything of it was committed.
    pub fn stops(&self) -> u32 {
        self.stops
    }

    /// Stops the whole lane.
    pub fn stop(&mut self, stop: Stop) {
        self.stops += 1;
        self.stop = Some(stop);
    }

    /// The stop, if there is one.
    pub fn stopped(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// Ends a stop whose time has come; gives it.
    pub fn end_stop(&mut self, now: Instant) -> Option<Stop> {
        let due = self.stop.as_ref()?.due?;
        if due > now { None } else { self.stop.take() }
    }

    /// Forgets everything and begins anew at `position`.
    pub fn rewind(&mut self, position: i64) {
        *self = Self {
            paused: self.paused,
            life: self.life + 1,
            ..Self::new(self.partition.clone(), self.epoch, position)
        };
    }

    /// Gives each record that waits in it a buffer of its own, so that a wait does not keep whole batches in memory.
    pub fn compact(&mut self) {
        for piece in &mut self.pieces {
            match &mut piece.state {
                State::Transforming(_) => {}
                State::Ready(ready) => {
                    for done in ready {
                        done.record = done.record.detached();
                    }
                }
                State::Mixed(entries) => {
                    for entry in entries {
                        let record = entry.record_mut();
                        *record = record.detached();
                    }
                }
            }
        }
    }

    /// Forgets everything behind the record it is held at, to be read again. While anything of it is with the
    /// transformer, whose results would meet other records then, only what is behind that.
    pub fn shed(&mut self) {
        if self.transforming() {
            self.shed_behind();
            return;
        }
        let entries = match self.pieces.front_mut() {
            Some(first) => first.state.entries(),
            None => return,
        };
        let first = match entries.and_then(VecDeque::pop_front) {
            Some(Entry::Waiting(first)) => Some(first),
            // It is stopped as a whole: nothing of it is needed.
            _ => None,
        };
        let kept = Self::new(self.partition.clone(), self.epoch, self.given_out);
        let before = std::mem::replace(self, kept);
        self.life = before.life;
        self.stop = before.stop;
        self.stops = before.stops;
        self.narrow = before.narrow;
        self.paused = before.paused;
        if let Some(first) = first {
            let from = self.given_out;
            let next = first.record.offset() + 1;
            if self.take_in(from, next, std::slice::from_ref(&first.record)) {
                self.transformed(from, [Tried::Waiting(first)]);
            }
        }
    }

    /// Forgets what is behind all that is with the transformer.
    fn shed_behind(&mut self) {
        while let Some(piece) = self.pieces.back() {
            // One that may be narrowed down on, or is given out in parts, stays whole.
            if self.pieces.len() == 1 || piece.state.is_tried() {
                return;
            }
            let Some(piece) = self.pieces.pop_back() else {
                return;
            };
            self.taken_in = piece.from;
            self.bytes -= piece.bytes;
            match piece.state {
                State::Transforming(_) => {}
                State::Ready(ready) => self.known -= ready.len(),
                State::Mixed(entries) => {
                    self.known -= entries.len();
                    for entry in &entries {
                        if let Entry::Waiting(waiting) = entry {
                            let offset = waiting.record.offset();
                            self.retries.remove(&(waiting.due, offset));
                            self.blocked.remove(&offset);
                            self.braked -= usize::from(waiting.reason == HoldReason::SkipBrake);
                        }
                    }
                }
            }
        }
    }

    /// When something of it is due next.
    pub fn next_due(&self) -> Option<Instant> {
        let stop = self.stop.as_ref().and_then(|stop| stop.due);
        let retry = self.retries.first().map(|(due, _)| *due);
        let blocked = self.blocked.first_key_value().map(|(_, due)| *due);
        let blocked = blocked.filter(|_| !self.trying_blocked);
        [stop, retry, blocked].into_iter().flatten().min()
    }

    /// Why it is held, if it is: the first of what it waits for.
    pub fn held(&self) -> Option<Held<'_>> {
        if let Some(stop) = &self.stop {
            return Some(Held {
                reason: stop.reason,
                offset: self.given_out,
                attempts: stop.in_a_row,
                error: &stop.error,
                due: stop.due,
            });
        }
        let Some(Piece {
            state: State::Mixed(entries),
            ..
        }) = self.pieces.front()
        else {
            return None;
        };
        match entries.front()? {
            Entry::Done(_) => None,
            Entry::Waiting(waiting) | Entry::Trying(waiting) => Some(Held {
                reason: waiting.reason,
                offset: waiting.record.offset(),
                attempts: waiting.failure.attempts,
                error: &waiting.failure.message,
                due: Some(waiting.due),
            }),
        }
    }

    /// Whether anything of it is with the transformer.
    pub fn transforming(&self) -> bool {
        self.transforming > 0 || self.trying > 0
    }

    /// Whether more of it may be read.
    pub fn reads_on(&self) -> bool {
        self.stop.is_none() && self.blocked.is_empty() && !self.trying_blocked && self.braked == 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
