//! What is still to be written: a bounded queue with one entry a record, so that whatever happens to a record
//! while its row waits ends up in one row. Filled by the strategy, emptied by the writer; pure. An entry leaves only
//! when it is written, so that a statement given up half way loses nothing.

use std::collections::BTreeMap;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{SourcePartition, SourcePosition};
use tokio::time::{Duration, Instant};

/// Rows beyond this many bytes wait without payload, headers and error chain, whatever their number.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// So many marks wait at least. They are small, and one that is lost leaves a row that was written provisional for
/// ever.
const MIN_MARKS: usize = 100_000;
/// How long a row of a partition that was taken away waits to hear that its unit was committed all the same.
const ORPHAN_KEPT: Duration = Duration::from_secs(60);

/// What has become of a record whose row may already be in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It was passed as a failure.
    Passed,
    /// It was passed as a success after all.
    Succeeded,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    entries: BTreeMap<SourcePosition, Entry>,
    max_rows: usize,
    max_marks: usize,
    rows: usize,
    bytes: usize,
    versions: u64,
}

#[derive(Debug)]
struct Entry {
    pending: Pending,
    version: u64,
    /// Since when its partition is another's. Such a row is written only if its unit turns out to be committed:
    /// otherwise the record is that other's business, and the row would speak ill of a record that may do well.
    orphaned: Option<Instant>,
}

#[derive(Debug)]
enum Pending {
    Row(Box<LedgerRow>),
    Mark(Mark, i64),
}

/// The entries to write next, each with its version.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) rows: Vec<LedgerRow>,
    pub(super) row_versions: Vec<u64>,
    pub(super) passed: Marked,
    pub(super) succeeded: Marked,
}

/// Positions with the same mark.
#[derive(Debug, Default)]
pub(super) struct Marked {
    pub(super) positions: Vec<SourcePosition>,
    pub(super) versions: Vec<u64>,
    /// When the last of them was passed.
    pub(super) at_ms: i64,
}

/// There is no room for another record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Queue {
    pub(super) fn new(max_rows: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            max_rows: max_rows.max(1),
            max_marks: max_rows.saturating_mul(10).max(MIN_MARKS),
            rows: 0,
            bytes: 0,
            versions: 0,
        }
    }

    /// How many rows wait, without those of partitions that were taken away.
    pub(super) fn waiting(&self) -> usize {
        let orphans = self
            .entries
            .values()
            .filter(|entry| entry.orphaned.is_some());
        self.rows - orphans.count()
    }

    /// Whether there is anything to write.
    pub(super) fn is_idle(&self) -> bool {
        self.entries.values().all(|entry| entry.orphaned.is_some())
    }

    pub(super) fn contains(&self, position: &SourcePosition) -> bool {
        self.entries.contains_key(position)
    }

    /// How many rows fit in one go, even if nothing else leaves.
    pub(super) fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// For how many rows more there is room.
    pub(super) fn room(&self) -> usize {
        self.max_rows.saturating_sub(self.rows)
    }

    /// How many entries there are, rows and marks.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a row. It takes the place of an older one of its record.
    pub(super) fn push_row(&mut self, mut row: LedgerRow) -> Result<(), Full> {
        match self.entries.get(&row.position).map(|entry| &entry.pending) {
            Some(Pending::Row(old)) if old.fence > row.fence => return Ok(()),
            Some(Pending::Row(old)) if old.fence == row.fence => {
                row.passed_at_ms = row.passed_at_ms.or(old.passed_at_ms);
            }
            Some(Pending::Row(_)) => {}
            Some(Pending::Mark(..)) | None if self.rows >= self.max_rows => return Err(Full),
            Some(Pending::Mark(..)) | None => {}
        }
        if self.bytes + row.size() > MAX_BYTES {
            row = row.bare();
        }
        self.put(row.position.clone(), Pending::Row(Box::new(row)));
        Ok(())
    }

    /// Brings a row up to date that was taken out, and is to come back, with what became of its record meanwhile. Gives
    /// whether it is wanted still.
    pub(super) fn catch_up(&self, row: &mut LedgerRow) -> bool {
        match self.entries.get(&row.position).map(|entry| &entry.pending) {
            Some(Pending::Mark(Mark::Passed, at_ms)) => {
                row.passed_at_ms.get_or_insert(*at_ms);
                true
            }
            Some(Pending::Mark(Mark::Succeeded, _)) => false,
            Some(Pending::Row(_)) | None => true,
        }
    }

    /// Notes what became of a record. A row that waits takes it in; otherwise the mark itself waits.
    pub(super) fn push_mark(
        &mut self,
        position: &SourcePosition,
        mark: Mark,
        at_ms: i64,
    ) -> Result<(), Full> {
        match (self.remove(position), mark) {
            (Some(Pending::Row(mut row)), Mark::Passed) => {
                row.passed_at_ms.get_or_insert(at_ms);
                self.put(position.clone(), Pending::Row(row));
            }
            (None, _) if self.entries.len() - self.rows >= self.max_marks => return Err(Full),
            _ => self.put(position.clone(), Pending::Mark(mark, at_ms)),
        }
        Ok(())
    }

    /// The next `n` entries to write. They stay until they are [`done`](Self::done).
    pub(super) fn take(&self, n: usize) -> Work {
        let mut work = Work::default();
        let next = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.orphaned.is_none());
        for (position, entry) in next.take(n) {
            match &entry.pending {
                Pending::Row(row) => {
                    work.rows.push((**row).clone());
                    work.row_versions.push(entry.version);
                }
                Pending::Mark(mark, at_ms) => {
                    let marked = match mark {
                        Mark::Passed => &mut work.passed,
                        Mark::Succeeded => &mut work.succeeded,
                    };
                    marked.positions.push(position.clone());
                    marked.versions.push(entry.version);
                    marked.at_ms = marked.at_ms.max(*at_ms);
                }
            }
        }
        work
    }

    /// An entry was written, or given up; it stays if something has happened to its record since.
    pub(super) fn done(&mut self, position: &SourcePosition, version: u64) {
        if self
            .entries
            .get(position)
            .is_some_and(|entry| entry.version == version)
        {
            self.remove(position);
        }
    }

    /// Takes out everything but the rows of partitions that were taken away.
    pub(super) fn take_all(&mut self) -> (Vec<LedgerRow>, Vec<(SourcePosition, Mark, i64)>) {
        let (orphaned, taken) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|(_, entry)| entry.orphaned.is_some());
        self.entries = orphaned;
        let (mut rows, mut marks) = (Vec::new(), Vec::new());
        for (position, entry) in taken {
            match entry.pending {
                Pending::Row(row) => {
                    self.rows -= 1;
                    self.bytes -= row.size();
                    rows.push(*row);
                }
                Pending::Mark(mark, at_ms) => marks.push((position, mark, at_ms)),
            }
        }
        (rows, marks)
    }

    /// Partitions were taken away: their rows wait only to hear of a commit.
    pub(super) fn orphan(&mut self, partitions: &[SourcePartition], now: Instant) {
        for (position, entry) in &mut self.entries {
            if let Pending::Row(row) = &entry.pending
                && row.passed_at_ms.is_none()
                && partitions.contains(&position.partition)
            {
                entry.orphaned.get_or_insert(now);
            }
        }
    }

    /// Forgets rows that have waited long enough to hear of a commit.
    pub(super) fn forget_orphans(&mut self, now: Instant) {
        let old = |entry: &Entry| {
            entry
                .orphaned
                .is_some_and(|since| now - since >= ORPHAN_KEPT)
        };
        let old: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| old(entry))
            .collect();
        let old: Vec<_> = old
            .into_iter()
            .map(|(position, _)| position.clone())
            .collect();
        for position in old {
            self.remove(&position);
        }
    }

    /// Empties the queue and gives back the dedup keys of the rows of passed records that were lost with it. The others
    /// are written by whoever passes their records.
    pub(super) fn abandon(&mut self) -> Vec<String> {
        let entries = std::mem::take(&mut self.entries);
        (self.rows, self.bytes) = (0, 0);
        let lost = entries.into_values().map(|entry| entry.pending);
        lost.filter_map(|pending| match pending {
            Pending::Row(row) if row.passed_at_ms.is_some() => Some(row.dedup_key),
            Pending::Row(_) | Pending::Mark(..) => None,
        })
        .collect()
    }

    fn put(&mut self, position: SourcePosition, pending: Pending) {
        self.remove(&position);
        if let Pending::Row(row) = &pending {
            self.rows += 1;
            self.bytes += row.size();
        }
        self.versions += 1;
        let entry = Entry {
            pending,
            version: self.versions,
            orphaned: None,
        };
        self.entries.insert(position, entry);
    }

    fn remove(&mut self, position: &SourcePosition) -> Option<Pending> {
        let pending = self.entries.remove(position)?.pending;
        if let Pending::Row(row) = &pending {
            self.rows -= 1;
            self.bytes -= row.size();
        }
        Some(pending)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
