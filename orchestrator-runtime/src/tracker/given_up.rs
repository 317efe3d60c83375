//! Rows of failures for which there was no room, and whose records are not passed yet. Kept by the writer; pure. Only
//! when its record is passed is a row missing: a unit that is not committed is done again, here or by another process,
//! and then the row is written, or is given up again; it must never be counted twice.

use std::collections::HashMap;

use orchestrator_core::{SourcePartition, SourcePosition};

/// Dedup keys by position. There are no more than records in flight.
#[derive(Debug, Default)]
pub(super) struct GivenUp(HashMap<SourcePosition, String>);

impl GivenUp {
    pub(super) fn add(&mut self, position: SourcePosition, dedup_key: String) {
        self.0.insert(position, dedup_key);
    }

    /// There was room for the row this time.
    pub(super) fn found_room(&mut self, position: &SourcePosition) {
        self.0.remove(position);
    }

    /// Records were passed as failures: gives back those whose rows are missing, with their dedup keys.
    pub(super) fn passed(
        &mut self,
        failures: &[SourcePosition],
    ) -> HashMap<SourcePosition, String> {
        if self.0.is_empty() {
            return HashMap::new();
        }
        let missing = failures
            .iter()
            .filter_map(|failed| self.0.remove_entry(failed));
        missing.collect()
    }

    /// A partition is owned anew: what was not passed of it is read again.
    pub(super) fn assigned(&mut self, partition: &SourcePartition) {
        self.0
            .retain(|position, _| position.partition != *partition);
    }
}
