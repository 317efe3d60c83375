//! What waited in the journal, as statements: as few as it takes, in an order that comes to the same for each record.
//! Called by the journal's side of the strategies.

use std::collections::{HashMap, HashSet, VecDeque};

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{FailureStore, OffsetRange, SourcePartition, SourcePosition, StoreError};

use super::spill::Entry;
use super::writer::{RowKind, Writer, refused_alone};

/// Marks that were made within this time may be written as if they had been made at once.
const SAME_MOMENT_MS: i64 = 1000;

/// Into so many parts a range is cut at most, about.
const CRUMBS_MAX: i64 = 1000;

/// Writes entries, which are in the order in which they were made.
pub(super) async fn replay(writer: &Writer, entries: &[Entry]) -> Result<(), StoreError> {
    for wave in waves(entries) {
        write_wave(writer, wave).await?;
    }
    Ok(())
}

/// What the entries of a wave are to one record: whichever of them it has, it has them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Received,
    Failed,
    Passed,
}

/// Entries in parts, in each of which all that was received may be written first, then all that failed, that was passed
/// and that succeeded: for each record it comes to the same, and takes few statements. In the journal of RELIABLE every
/// entry has another kind than the one before.
fn waves(entries: &[Entry]) -> Vec<&[Entry]> {
    let mut waves = Vec::new();
    let (mut wave, mut from) = (Wave::default(), 0);
    for (at, entry) in entries.iter().enumerate() {
        if !wave.takes(entry) {
            waves.push(&entries[from..at]);
            (wave, from) = (Wave::default(), at);
            wave.takes(entry);
        }
    }
    waves.push(&entries[from..]);
    waves.retain(|wave| !wave.is_empty());
    waves
}

/// What is in a wave so far.
#[derive(Default)]
struct Wave<'a> {
    steps: HashMap<&'a SourcePosition, Step>,
    /// Up to where records of a partition have succeeded.
    succeeded: HashMap<&'a SourcePartition, i64>,
    /// When the earliest mark was made, and the latest.
    made_ms: Option<(i64, i64)>,
}

impl<'a> Wave<'a> {
    /// Whether the entry may be in it, too; then it is.
    fn takes(&mut self, entry: &'a Entry) -> bool {
        let (position, step) = match entry {
            Entry::Received(row) => (&row.position, Step::Received),
            Entry::Failed(row) => (&row.position, Step::Failed),
            Entry::Passed { position, at_ms } if self.is_now(*at_ms) => (position, Step::Passed),
            Entry::Succeeded { range, at_ms } if self.is_now(*at_ms) => {
                let until = self.succeeded.entry(&range.partition).or_insert(range.next);
                *until = range.next.max(*until);
                return true;
            }
            Entry::Passed { .. } | Entry::Succeeded { .. } => return false,
        };
        let succeeded = self.succeeded.get(&position.partition);
        if succeeded.is_some_and(|until| position.offset < *until) {
            return false;
        }
        let last = self.steps.insert(position, step);
        last.is_none_or(|last| last <= step)
    }

    fn is_now(&mut self, at_ms: i64) -> bool {
        let (earliest, latest) = self.made_ms.unwrap_or((at_ms, at_ms));
        let (earliest, latest) = (earliest.min(at_ms), latest.max(at_ms));
        self.made_ms = Some((earliest, latest));
        latest - earliest < SAME_MOMENT_MS
    }
}

/// Writes the entries of a wave.
async fn write_wave(writer: &Writer, entries: &[Entry]) -> Result<(), StoreError> {
    let Writer { store, ledger, .. } = writer;
    let (mut received, mut failed) = (Vec::new(), Vec::new());
    let (mut passed, mut succeeded) = (Vec::new(), VecDeque::new());
    let mut latest = 0;
    for entry in entries {
        match entry {
            Entry::Received(row) => received.push((**row).clone()),
            Entry::Failed(row) => failed.push((**row).clone()),
            Entry::Passed { position, at_ms } => {
                passed.push(position.clone());
                latest = latest.max(*at_ms);
            }
            Entry::Succeeded { range, at_ms } => {
                succeeded.push_back(range.clone());
                latest = latest.max(*at_ms);
            }
        }
    }
    // The size is asked for each time: it changes with how long statements take.
    for (kind, rows) in [(RowKind::Received, received), (RowKind::Failed, failed)] {
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let some = distinct(rest, store.rows_per_statement());
            writer.write_rows(kind, some).await?;
            rest = &rest[some.len()..];
        }
    }
    let mut rest = passed.as_slice();
    while !rest.is_empty() {
        let (some, more) = rest.split_at(store.rows_per_statement().min(rest.len()));
        refused_alone(store.pass_failed(ledger, some, latest).await, some.len())?;
        rest = more;
    }
    while !succeeded.is_empty() {
        let some = narrow(&mut succeeded, store.rows_per_statement());
        refused_alone(store.succeed(ledger, &some, latest).await, some.len())?;
    }
    Ok(())
}

/// As many of the first rows as a statement takes: at most `size`, and no two of the same record.
pub(super) fn distinct(rows: &[LedgerRow], size: usize) -> &[LedgerRow] {
    let mut seen = HashSet::new();
    let mut next = rows.iter().take(size);
    let twice = next.position(|row| !seen.insert((&row.position, row.record_timestamp_ms)));
    &rows[..twice.unwrap_or(size.min(rows.len()))]
}

/// Takes out the first ranges, of at most `size` offsets together. One that is longer by itself is cut, but not into
/// crumbs: what is written of it may have gaps.
fn narrow(ranges: &mut VecDeque<OffsetRange>, size: usize) -> Vec<OffsetRange> {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let (mut taken, mut room) = (Vec::new(), size);
    while let Some(range) = ranges.front_mut() {
        let width = range.next.saturating_sub(range.from);
        if width <= room {
            room -= width;
            taken.extend(ranges.pop_front());
        } else if !taken.is_empty() {
            break;
        } else if width < 2 * size {
            return ranges.pop_front().into_iter().collect();
        } else {
            let mut first = range.clone();
            first.next = first.from + size.max(width / CRUMBS_MAX);
            range.from = first.next;
            return vec![first];
        }
    }
    taken
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
