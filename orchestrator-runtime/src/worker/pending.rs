//! The unit of work that is being put together, and the one under way.

use std::ops::{Add, AddAssign, Sub};

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::{Unit, UnitSlice};
use tokio::time::Instant;

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

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
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
}

/// A unit and what it weighs.
#[derive(Debug, Default)]
pub(super) struct Pending {
    unit: Unit,
    pub(super) size: Size,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.unit.slices.is_empty()
    }

    pub(super) fn push(&mut self, slice: UnitSlice) {
        self.size += Size::of(&slice);
        self.unit.slices.push(slice);
    }

    /// Takes out what is pending of one partition, in order.
    pub(super) fn remove(&mut self, partition: &SourcePartition) -> Vec<UnitSlice> {
        let slices = std::mem::take(&mut self.unit.slices);
        let (removed, kept) = slices
            .into_iter()
            .partition(|slice| &slice.partition == partition);
        self.unit.slices = kept;
        let removed: Vec<UnitSlice> = removed;
        for slice in &removed {
            self.size = self.size - Size::of(slice);
        }
        removed
    }

    /// The unit, to be taken out of it or left as it is.
    pub(super) fn unit(&mut self) -> &mut Unit {
        &mut self.unit
    }

    pub(super) fn take(&mut self) -> Unit {
        self.size = Size::default();
        std::mem::take(&mut self.unit)
    }
}
