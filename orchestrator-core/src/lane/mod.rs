//! A lane: one partition's records in order, from intake to unit of work. It knows what is being transformed, what
//! is ready, and what the partition waits for. Pure; owned and driven by the worker.

mod giving;
mod piece;
mod shedding;
mod trying;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::hold::HoldReason;
use crate::ports::Epoch;
use crate::record::SourcePartition;

use piece::{Entry, Piece, State};
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

    /// Whether this is where it goes on.
    pub fn expects(&self, epoch: Epoch, from: i64) -> bool {
        self.epoch == epoch && self.taken_in == from
    }

    /// The position up to which records were given out: where a rewind loses nothing.
    pub fn given_out(&self) -> i64 {
        self.given_out
    }

    /// The bytes it keeps beside the record it waits for.
    pub fn bytes_behind(&self) -> usize {
        let first = match self.pieces.front().map(|piece| &piece.state) {
            Some(State::Mixed(entries)) => entries.front().map_or(0, Entry::size),
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
mod prop_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
