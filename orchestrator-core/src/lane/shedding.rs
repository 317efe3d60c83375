//! What a lane forgets, to be read again, and how it keeps less of what it waits with. Part of the lane.

use std::collections::VecDeque;

use super::Lane;
use super::piece::{Entry, State, Tried};
use crate::hold::HoldReason;

impl Lane {
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
        // What was given out may come back; the rest is read and tried anew.
        let mut tried = std::mem::take(&mut self.tried);
        tried.split_off(&self.given_out);
        *self = Self {
            life: self.life,
            stop: self.stop.take(),
            stops: self.stops,
            narrow: self.narrow,
            paused: self.paused,
            tried,
            ..Self::new(self.partition.clone(), self.epoch, self.given_out)
        };
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
            self.known -= piece.state.len();
            if let State::Mixed(entries) = piece.state {
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
