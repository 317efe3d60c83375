//! The unit of work that is being put together.

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::{Unit, UnitSlice};

/// A unit and what it weighs.
#[derive(Debug, Default)]
pub(super) struct Pending {
    unit: Unit,
    pub(super) records: usize,
    pub(super) bytes: usize,
    pub(super) output_bytes: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.unit.slices.is_empty()
    }

    pub(super) fn push(&mut self, slice: UnitSlice) {
        self.records += slice.done.len();
        self.bytes += bytes(&slice);
        self.output_bytes += output_bytes(&slice);
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
            self.records -= slice.done.len();
            self.bytes -= bytes(slice);
            self.output_bytes -= output_bytes(slice);
        }
        removed
    }

    pub(super) fn take(&mut self) -> Unit {
        self.records = 0;
        self.bytes = 0;
        self.output_bytes = 0;
        std::mem::take(&mut self.unit)
    }
}

/// Payload bytes of records and outputs.
fn bytes(slice: &UnitSlice) -> usize {
    let records = slice.done.iter().map(|done| done.record.size());
    records.sum::<usize>() + output_bytes(slice)
}

fn output_bytes(slice: &UnitSlice) -> usize {
    let outputs = slice.done.iter().map(|done| done.fate.output_bytes());
    outputs.sum()
}
