//! The account of all records: what was sent, what came of each, and what is wrong with that. Filled by the auditor,
//! which reads; pure.

use std::collections::HashMap;

use super::identity::Id;
use super::lane::{Entry, Fate, Lane, Noted};
use super::letter::Origin;
use super::recent::{Recent, Settled};
use super::{AuditError, Counts, Findings, Kind, Offsets, Outputs, Scope, Seen};

/// A record of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    lane: usize,
    offset: i64,
}

/// The account of all records.
#[derive(Debug)]
pub(super) struct Book {
    outputs: Outputs,
    dead_letters: bool,
    lanes: Vec<Lane>,
    ids: HashMap<Id, Place>,
    recent: Recent,
    /// The last source offset, by the topic and partition that it came to and the lane that it came from.
    last: HashMap<(usize, i32, usize), i64>,
    outlets: Vec<String>,
    /// What came of records that had not been passed when this pass began.
    early: Vec<Place>,
    counts: Counts,
    pub(super) findings: Findings,
}

impl Book {
    pub(super) fn new(scope: &Scope) -> Self {
        let outlets = scope.targets.iter().chain(&scope.dead_letters);
        Self {
            outputs: scope.outputs,
            dead_letters: !scope.dead_letters.is_empty(),
            lanes: Vec::new(),
            ids: HashMap::new(),
            recent: Recent::new(scope.remembered),
            last: HashMap::new(),
            outlets: outlets.cloned().collect(),
            early: Vec::new(),
            counts: Counts::default(),
            findings: Findings::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let waiting = self.lanes.iter().map(|lane| lane.len() as u64).sum();
        Counts {
            waiting,
            ..self.counts
        }
    }

    pub(super) fn find(&mut self, kind: Kind, example: impl FnOnce() -> String) {
        self.findings.add(kind.what(), example);
    }

    /// A partition of a source, audited from `start` on; nothing if it is known.
    pub(super) fn open(&mut self, topic: &str, partition: i32, start: i64) {
        if self.lane(topic, partition).is_none() {
            self.lanes.push(Lane::new(topic, partition, start));
        }
    }

    /// Whether records lie before the start, of which the book knows nothing.
    pub(super) fn is_partial(&self) -> bool {
        self.lanes.iter().any(|lane| lane.start > 0)
    }

    /// The group has passed all below these offsets: told before a pass begins to read.
    pub(super) fn passed(&mut self, topic: &str, committed: &Offsets) {
        for lane in self.lanes.iter_mut().filter(|lane| *lane.topic == *topic) {
            if let Some(committed) = committed.get(&lane.partition) {
                lane.passed = lane.passed.max(*committed);
            }
        }
    }

    /// A record of a source.
    pub(super) fn sent(&mut self, seen: &Seen<'_>, id: Option<Id>) -> Result<(), AuditError> {
        let Some(lane) = self.lane(seen.topic, seen.partition) else {
            return Ok(());
        };
        let offset = seen.offset;
        if let Some(id) = id {
            let recent = self.recent.find(id).map(|settled| Place {
                lane: settled.lane as usize,
                offset: settled.offset,
            });
            let before = self.ids.insert(id, Place { lane, offset });
            if let Some(first) = before.or(recent) {
                return Err(AuditError::NotUnique {
                    first: self.at(first),
                    second: seen.to_string(),
                });
            }
        }
        self.lanes[lane].add(offset, id);
        Ok(())
    }

    /// A record of a target. One that may be of a record before the start is only counted if it is known to nobody.
    pub(super) fn output(&mut self, seen: &Seen<'_>, id: Option<Id>, may_be_older: bool) {
        self.counts.outputs += 1;
        let at = || seen.to_string();
        let Some(id) = id else {
            return self.find(Kind::Unnamed, at);
        };
        if let Some(place) = self.ids.get(&id).copied() {
            let most = self.outputs.most();
            let Some(entry) = self.lanes[place.lane].find(place.offset) else {
                return;
            };
            entry.outputs = entry.outputs.saturating_add(1);
            let again = entry.outputs > most;
            return self.came(seen, place, again);
        }
        match self.recent.find(id) {
            Some(settled) if settled.failed => self.find(Kind::Both, at),
            Some(settled) if settled.outputs >= self.outputs.most() => self.find(Kind::Doubled, at),
            Some(_) => self.find(Kind::Late, at),
            None if may_be_older => {
                self.counts.outputs -= 1;
                self.counts.older += 1;
            }
            None => self.find(Kind::Stranger, at),
        }
    }

    /// A record of a dead-letter queue, already known to be of this group.
    pub(super) fn letter(&mut self, seen: &Seen<'_>, origin: &Origin<'_>) {
        let Some(lane) = self.lane(origin.topic, origin.partition) else {
            self.counts.foreign += 1;
            return;
        };
        let offset = origin.offset;
        if offset < self.lanes[lane].start {
            self.counts.older += 1;
            return;
        }
        self.counts.dead_letters += 1;
        let settled = offset < self.lanes[lane].settled;
        let Some(entry) = self.lanes[lane].find(offset) else {
            // Whatever became of it, no dead letter was missing.
            let kind = if settled { Kind::Late } else { Kind::Stranger };
            return self.find(kind, || seen.to_string());
        };
        entry.letters = entry.letters.saturating_add(1);
        let again = entry.letters > 1;
        self.came(seen, Place { lane, offset }, again);
    }

    /// A record of a dead-letter queue that is of another group, or of another topic.
    pub(super) fn foreign_letter(&mut self) {
        self.counts.foreign += 1;
    }

    /// A row FAILED of the ledger; telling it twice does no harm.
    pub(super) fn row(&mut self, topic: &str, partition: i32, offset: i64, passed: bool) {
        let Some(lane) = self.lane(topic, partition) else {
            return;
        };
        if let Some(entry) = self.lanes[lane].find(offset) {
            let noted = if passed {
                Noted::Finally
            } else {
                Noted::Provisionally
            };
            entry.row = entry.row.max(noted);
        }
    }

    /// Whether nothing has come of a record that was passed. A ledger may be late.
    pub(super) fn misses_something(&self) -> bool {
        let lost = |entry: &Entry| self.fate(entry) == Err(Kind::Lost);
        self.lanes.iter().any(|lane| lane.passed().any(lost))
    }

    /// Partition, first offset and end of what was passed and is not settled.
    pub(super) fn unsettled(&self, topic: &str) -> Vec<(i32, i64, i64)> {
        let lanes = self.lanes.iter().filter(|lane| *lane.topic == *topic);
        let ranges = lanes.map(|lane| (lane.partition, lane.settled, lane.passed));
        ranges.filter(|(_, from, to)| from < to).collect()
    }

    /// The group has passed all below these offsets, and nothing more: told after all was read.
    pub(super) fn not_beyond(&mut self, topic: &str, committed: &Offsets) {
        let mut early = std::mem::take(&mut self.early);
        early.sort_unstable();
        early.dedup();
        for place in early {
            let lane = &self.lanes[place.lane];
            if *lane.topic != *topic {
                self.early.push(place);
            } else if committed.get(&lane.partition).unwrap_or(&lane.start) <= &place.offset {
                let at = lane.at(place.offset);
                self.find(Kind::Beyond, || at);
            }
        }
    }

    /// All that came of records below what was passed has been told: they are judged, and forgotten.
    pub(super) fn settle(&mut self) {
        for index in 0..self.lanes.len() {
            while let Some(entry) = self.lanes[index].take_passed() {
                let fate = self.fate(&entry);
                self.count(&entry, fate);
                if let Err(kind) = fate {
                    let at = self.lanes[index].at(entry.offset);
                    self.find(kind, || at);
                }
                if let Some(id) = entry.id {
                    self.ids.remove(&id);
                    let settled = Settled {
                        lane: u32::try_from(index).unwrap_or(u32::MAX),
                        offset: entry.offset,
                        outputs: entry.outputs,
                        failed: fate == Ok(Fate::Failed),
                    };
                    self.recent.add(id, settled);
                }
            }
            let lane = &mut self.lanes[index];
            lane.settled = lane.settled.max(lane.passed);
        }
    }

    fn count(&mut self, entry: &Entry, fate: Result<Fate, Kind>) {
        let counts = &mut self.counts;
        counts.records += 1;
        counts.ledger_rows += u64::from(entry.row != Noted::No);
        match fate {
            Ok(Fate::CameOut) => counts.came_out += 1,
            Ok(Fate::Filtered) => counts.filtered += 1,
            Ok(Fate::Failed) => counts.failed += 1,
            Err(_) => {}
        }
    }

    fn fate(&self, entry: &Entry) -> Result<Fate, Kind> {
        entry.fate(self.outputs, self.dead_letters)
    }

    /// An output or a dead letter: once only, in order, and not of a record that is yet to be passed.
    fn came(&mut self, seen: &Seen<'_>, place: Place, again: bool) {
        if again {
            return self.find(Kind::Doubled, || seen.to_string());
        }
        if place.offset >= self.lanes[place.lane].passed {
            self.early.push(place);
        }
        let outlet = self.outlets.iter().position(|topic| topic == seen.topic);
        let way = (outlet.unwrap_or(0), seen.partition, place.lane);
        let before = self.last.entry(way).or_insert(place.offset);
        if *before > place.offset {
            self.find(Kind::OutOfOrder, || seen.to_string());
        } else {
            *before = place.offset;
        }
    }

    fn lane(&self, topic: &str, partition: i32) -> Option<usize> {
        let found = |lane: &Lane| lane.partition == partition && *lane.topic == *topic;
        self.lanes.iter().position(found)
    }

    fn at(&self, place: Place) -> String {
        self.lanes[place.lane].at(place.offset)
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
