//! The unit of work that is being put together, and the one under way.

use std::ops::{Add, Sub};

use orchestrator_core::ports::{Fate, Unit, UnitSlice};
use orchestrator_core::{FailureRecord, SourcePartition};
use tokio::time::Instant;

use crate::planted::{Bug, planted};

/// What a unit, or a part of one, weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) records: usize,
    /// Payload bytes of records and outputs.
    pub(super) bytes: usize,
    pub(super) output_bytes: usize,
}

impl Size {
    fn of(slice: &UnitSlice) -> Self {
        let outputs = slice.done.iter().map(|done| done.fate.output_bytes());
        let output_bytes: usize = outputs.sum();
        let records = slice.done.iter().map(|done| done.record.size());
        Self {
            records: slice.done.len(),
            bytes: records.sum::<usize>() + output_bytes,
            output_bytes,
        }
    }
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            bytes: self.bytes + other.bytes,
            output_bytes: self.output_bytes + other.output_bytes,
        }
    }
}

impl Sub for Size {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            records: self.records - other.records,
            bytes: self.bytes - other.bytes,
            output_bytes: self.output_bytes - other.output_bytes,
        }
    }
}

/// The unit that was handed over.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) since: Instant,
    pub(super) size: Size,
    /// Whether it may take more still.
    pub(super) open: bool,
    /// What the committer was told of the transformer's queue.
    pub(super) queued: bool,
}

/// Slices in order, and what they weigh.
#[derive(Debug, Default)]
pub(super) struct Batch {
    unit: Unit,
    size: Size,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.unit.slices.is_empty()
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn push(&mut self, slice: UnitSlice) {
        self.size = self.size + Size::of(&slice);
        self.unit.slices.push(slice);
    }

    /// Moves all of `other` behind what there is.
    fn append(&mut self, other: &mut Self) {
        self.size = self.size + other.size;
        self.unit.slices.append(&mut other.take().slices);
    }

    /// The unit, to be taken out of it or left as it is.
    pub(super) fn unit(&mut self) -> &mut Unit {
        &mut self.unit
    }

    pub(super) fn take(&mut self) -> Unit {
        self.size = Size::default();
        std::mem::take(&mut self.unit)
    }

    fn remove(&mut self, partition: &SourcePartition, removed: &mut Vec<UnitSlice>) {
        for slice in std::mem::take(&mut self.unit.slices) {
            if slice.partition == *partition {
                self.size = self.size - Size::of(&slice);
                removed.push(slice);
            } else {
                self.unit.slices.push(slice);
            }
        }
    }
}

/// What left the lanes and was not handed over yet: each slice goes from `fresh` by way of `recording`, if it has
/// failures that the ledger has yet to take, to `ready`.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The next unit, or what is to be added to the one under way.
    pub(super) ready: Batch,
    /// What the ledger is taking the failures of, and what stands between them.
    recording: Batch,
    fresh: Batch,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.recording.is_empty() && self.fresh.is_empty()
    }

    pub(super) fn size(&self) -> Size {
        self.ready.size + self.recording.size + self.fresh.size
    }

    pub(super) fn push(&mut self, slice: UnitSlice) {
        self.fresh.push(slice);
    }

    /// Moves what is fresh on, when nothing is being recorded; gives the failures that the ledger has to take now.
    pub(super) fn record(&mut self) -> Vec<FailureRecord> {
        debug_assert!(self.recording.is_empty());
        let mut failures: Vec<_> = failed(&mut self.fresh.unit)
            .filter_map(|(failed, recorded)| (!*recorded).then(|| failed.clone()))
            .collect();
        if planted(Bug::FailureAfterCommit) {
            failures.clear();
        }
        let next = if failures.is_empty() {
            &mut self.ready
        } else {
            &mut self.recording
        };
        next.append(&mut self.fresh);
        failures
    }

    /// What was being recorded is, all that is still there of it.
    pub(super) fn recorded(&mut self) {
        for (_, recorded) in failed(&mut self.recording.unit) {
            *recorded = true;
        }
        self.ready.append(&mut self.recording);
    }

    /// Takes out what is pending of one partition, in order.
    pub(super) fn remove(&mut self, partition: &SourcePartition) -> Vec<UnitSlice> {
        let mut removed = Vec::new();
        for batch in [&mut self.ready, &mut self.recording, &mut self.fresh] {
            batch.remove(partition, &mut removed);
        }
        removed
    }
}

/// The failures in a unit, and whether the ledger has each.
fn failed(unit: &mut Unit) -> impl Iterator<Item = (&FailureRecord, &mut bool)> {
    let done = unit.slices.iter_mut().flat_map(|slice| &mut slice.done);
    done.filter_map(|done| match &mut done.fate {
        Fate::Failed(failed) => {
            let failed = &mut **failed;
            Some((&failed.failure, &mut failed.recorded))
        }
        Fate::Outputs(_) => None,
    })
}
