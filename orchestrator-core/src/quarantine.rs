//! Crash-loop quarantine: finds the record that ends the process. What is about to be given to the transformer is marked
//! in the commit metadata of its partition, before it is given; a process that finds a mark of its own earlier life there
//! knows that this life has ended in the middle, and goes on more carefully with each start, until one record alone is
//! marked. Pure: the worker keeps a [`Search`] for each partition until something of it is committed.
//!
//! A life that ends in peace takes its marks back, and a mark of another process says nothing: that one may be alive.

use std::fmt;

/// So many offsets are let through at first, until something is committed. Each is worked on alone if the worst comes to
/// the worst, which takes a commit.
const WIDEST: u32 = 512;

/// What is said of records in the commit metadata of their partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose it is: the same after a restart.
    pub owner: u64,
    /// Which of its lives has set it.
    pub life: u64,
    /// Lives in a row, this one among them, that have not passed anything without suspicion.
    pub starts: u32,
    /// How many offsets are let through at once; with 1 no other record of the process is worked on.
    pub step: u32,
    /// Only records below are given to the transformer.
    pub until: i64,
}

/// The first word of the metadata, with its version.
const MAGIC: &str = "orchestrator-1";

/// As it stands in the commit metadata.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owner,
            life,
            starts,
            step,
            until,
        } = self;
        write!(f, "{MAGIC} {owner:x} {life:x} {starts} {step} {until}")
    }
}

impl Mark {
    /// Reads commit metadata; `None` if it is anything but a mark.
    pub fn parse(metadata: &str) -> Option<Self> {
        let mut words = metadata.strip_prefix(MAGIC)?.strip_prefix(' ')?.split(' ');
        let mark = Self {
            owner: u64::from_str_radix(words.next()?, 16).ok()?,
            life: u64::from_str_radix(words.next()?, 16).ok()?,
            starts: words.next()?.parse().ok()?,
            step: words.next()?.parse().ok()?,
            until: words.next()?.parse().ok()?,
        };
        let sound = words.next().is_none() && mark.starts > 0 && mark.step > 0;
        sound.then_some(mark)
    }
}

/// How a process looks for such records.
#[derive(Clone, Copy, Debug)]
pub struct Quarantine {
    /// `ORCH_CRASH_QUARANTINE_AFTER`, 2 at least: after so many starts that came to nothing the record is known. With 2
    /// nobody looks twice.
    pub after: u32,
    /// Who we are: the same after a restart.
    pub owner: u64,
    /// Which life this is.
    pub life: u64,
}

impl Quarantine {
    /// The search in a partition that is read from `position`, where this mark was found.
    pub fn begin(&self, position: i64, mark: Option<Mark>) -> Search {
        let search = |starts, until| Search {
            mark: Mark {
                owner: self.owner,
                life: self.life,
                starts,
                step: self.step(starts),
                until,
            },
            suspected: until,
            committed: None,
            asked: None,
            handed_over: false,
            convicted: None,
        };
        // One that lies behind was committed by something that does not know of marks, or set back.
        let Some(mark) = mark.filter(|mark| mark.until > position) else {
            return search(1, position.saturating_add(i64::from(WIDEST)));
        };
        let crashed = mark.owner == self.owner && mark.life != self.life;
        if !crashed {
            return search(mark.starts, mark.until);
        }
        if mark.step > 1 || mark.starts < self.after {
            return search(mark.starts.saturating_add(1), mark.until);
        }
        Search {
            mark,
            suspected: mark.until,
            committed: Some(mark.until),
            asked: None,
            handed_over: false,
            convicted: Some(mark.until - 1),
        }
    }

    /// How many offsets are let through at once at the start of this number: all at first, then fewer in equal ratios, and
    /// one in the last start but one. The last looks at what that one has found once more: it may have been ended by
    /// anything else.
    fn step(&self, starts: u32) -> u32 {
        let narrowest = self.after.saturating_sub(1).max(2);
        let left = f64::from(narrowest.saturating_sub(starts));
        let exponent = left / f64::from(narrowest - 1);
        f64::from(WIDEST).powf(exponent).round() as u32
    }
}

/// What is known of a partition of which nothing was committed yet, or that is under suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// The last mark, or with `committed` empty what the first is made of.
    mark: Mark,
    /// From here on nothing is suspected.
    suspected: i64,
    /// Records below may be given to the transformer: that is committed.
    committed: Option<i64>,
    /// The record that a mark is wanted for.
    asked: Option<i64>,
    /// Whether records were handed over to be committed.
    handed_over: bool,
    convicted: Option<i64>,
}

impl Search {
    /// Records below may be given to the transformer.
    pub fn limit(&self) -> Option<i64> {
        self.committed
    }

    /// The record that ends the process, if it is known: it must not be given to the transformer again.
    pub fn convicted(&self) -> Option<i64> {
        self.convicted
    }

    /// Lives in a row, this one among them, that have not passed anything without suspicion.
    pub fn starts(&self) -> u32 {
        self.mark.starts
    }

    /// Whether records are let through in parts.
    pub fn is_narrow(&self) -> bool {
        self.mark.step < WIDEST
    }

    /// Whether no other record of the process may be worked on meanwhile.
    pub fn is_alone(&self) -> bool {
        self.mark.step == 1 && self.convicted.is_none()
    }

    /// Whether a mark or records are on their way to be committed. Nothing else may be asked for meanwhile: a crash would
    /// be blamed on what was there before.
    pub fn awaits_commit(&self) -> bool {
        self.asked.is_some() || self.handed_over
    }

    /// A mark is wanted, since the next record is at `offset`. False if nothing is suspected there.
    pub fn ask(&mut self, offset: i64) -> bool {
        let suspects = offset < self.suspected;
        self.asked = suspects.then_some(offset);
        suspects
    }

    /// What was to be committed was not: another mark has to be asked for.
    pub fn forget(&mut self) {
        self.asked = None;
        self.handed_over = false;
    }

    /// The mark to be committed with nothing else, for the record that it was asked for.
    pub fn asked(&self) -> Option<Mark> {
        self.asked.map(|offset| self.mark_from(offset))
    }

    /// The mark to be committed with everything below `next`; none if nothing is suspected any more.
    pub fn after(&mut self, next: i64) -> Option<Mark> {
        self.handed_over = true;
        if !self.is_narrow() || next >= self.suspected {
            return None;
        }
        let until = self.committed.filter(|until| next < *until);
        Some(until.map_or(self.mark_from(next), |until| Mark { until, ..self.mark }))
    }

    /// A mark is committed.
    pub fn marked(&mut self, mark: Mark) {
        self.mark = mark;
        self.committed = Some(mark.until);
        self.forget();
    }

    fn mark_from(&self, offset: i64) -> Mark {
        let until = offset.saturating_add(i64::from(self.mark.step));
        Mark {
            until: until.min(self.suspected),
            ..self.mark
        }
    }
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
