//! What is known of the records of one source partition that are not settled yet. Kept by the book; it knows nothing of
//! other partitions.

use std::collections::VecDeque;
use std::sync::Arc;

use super::identity::Id;
use super::{Kind, Outputs};

/// A partition of a source.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// Where the audit began.
    pub(super) start: i64,
    /// All below are settled, and forgotten.
    pub(super) settled: i64,
    /// The group had passed all below before this pass began to read.
    pub(super) passed: i64,
    entries: VecDeque<Entry>,
}

/// A record of a source, and what has been seen of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) offset: i64,
    pub(super) id: Option<Id>,
    pub(super) outputs: u32,
    pub(super) letters: u32,
    pub(super) row: Noted,
}

/// Whether the ledger has it as FAILED.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Noted {
    /// It has not.
    No,
    /// It has, and a later success may change that.
    Provisionally,
    /// It has, and the record was passed with that.
    Finally,
}

/// What became of a record as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    CameOut,
    Filtered,
    Failed,
}

impl Lane {
    pub(super) fn new(topic: &str, partition: i32, start: i64) -> Self {
        Self {
            topic: topic.into(),
            partition,
            start,
            settled: start,
            passed: start,
            entries: VecDeque::new(),
        }
    }

    pub(super) fn add(&mut self, offset: i64, id: Option<Id>) {
        self.entries.push_back(Entry {
            offset,
            id,
            outputs: 0,
            letters: 0,
            row: Noted::No,
        });
    }

    pub(super) fn find(&mut self, offset: i64) -> Option<&mut Entry> {
        let place = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries
            .get_mut(place)
            .filter(|entry| entry.offset == offset)
    }

    /// Those that the group has passed.
    pub(super) fn passed(&self) -> impl Iterator<Item = &Entry> {
        let passed = |entry: &&Entry| entry.offset < self.passed;
        self.entries.iter().take_while(passed)
    }

    /// The first, if the group has passed it.
    pub(super) fn take_passed(&mut self) -> Option<Entry> {
        let passed = self.passed;
        self.entries.pop_front_if(|first| first.offset < passed)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn at(&self, offset: i64) -> String {
        format!("{}:{}:{offset}", self.topic, self.partition)
    }
}

impl Entry {
    /// What became of a record that was passed; an error if that is none of what may.
    pub(super) fn fate(&self, outputs: Outputs, dead_letters: bool) -> Result<Fate, Kind> {
        match (self.outputs, self.letters, self.row) {
            (1.., 1.., _) | (1.., _, Noted::Finally) => Err(Kind::Both),
            (found @ 1.., ..) if outputs.are_complete(found) => Ok(Fate::CameOut),
            (1.., ..) => Err(Kind::Half),
            (0, 1.., _) => Ok(Fate::Failed),
            (0, 0, Noted::Finally | Noted::Provisionally) if !dead_letters => Ok(Fate::Failed),
            (0, 0, Noted::Finally) => Err(Kind::OnlyInLedger),
            (0, 0, _) if outputs.may_filter() => Ok(Fate::Filtered),
            (0, 0, Noted::Provisionally) => Err(Kind::OnlyInLedger),
            (0, 0, Noted::No) => Err(Kind::Lost),
        }
    }
}
