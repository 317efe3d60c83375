//! The journal at the strategies' service: what the database did not take is appended to it, and written from it
//! once the database is well again. Blocking file work is kept off the runtime's threads. It must never lose an
//! entry without saying how many.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, SourcePartition, SourcePosition, StoreError,
};

use tokio::time::Instant;

use super::spill::{Batch, Entry, Journal, SpillError};
use super::writer::{RowKind, Writer, refused_alone};
use crate::kill_points::{KillPoint, kill_point};

/// So many entries are read back at a time.
const READ_ENTRIES: usize = 1000;
/// Marks that were made within this time may be written as if they had been made at once.
const SAME_MOMENT_MS: i64 = 1000;
/// How often it is looked whether other processes have left something behind.
const ADOPT_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
pub(super) struct Spill {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Mutex<Journal>,
    /// Whether nothing waits in it; kept beside, so that it is known without the lock.
    is_empty: AtomicBool,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// Entries found damaged, not told yet.
    damaged: AtomicU64,
    /// When it was last looked whether others have left something behind.
    adopted: Mutex<Instant>,
    /// Trouble with it is said once until it is over.
    in_trouble: AtomicBool,
}

impl Spill {
    pub(super) fn open(
        folder: &Path,
        ledger: &LedgerIdentity,
        max_bytes: u64,
    ) -> Result<Self, SpillError> {
        let journal = Journal::open(folder, ledger, max_bytes)?;
        let spill = Self {
            shared: Arc::new(Shared {
                is_empty: AtomicBool::new(journal.is_empty()),
                entries: AtomicU64::new(journal.rows()),
                bytes: AtomicU64::new(journal.bytes()),
                journal: Mutex::new(journal),
                damaged: AtomicU64::new(0),
                adopted: Mutex::new(Instant::now()),
                in_trouble: AtomicBool::new(false),
            }),
        };
        Ok(spill)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shared.is_empty.load(Relaxed)
    }

    /// How many entries wait, and the bytes they take.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let load = |number: &AtomicU64| number.load(Relaxed);
        (load(&self.shared.entries), load(&self.shared.bytes))
    }

    /// Takes over at once what processes that have ended have left behind.
    pub(super) async fn take_over(&self) {
        if let Some(Err(error)) = self.on_disk(|journal| journal.adopt().map(drop)).await {
            self.report(Err(error));
        }
    }

    /// Appends entries, and gives back those that did not fit.
    ///
    /// Not cancel safe: what did not fit is lost when the future is dropped.
    pub(super) async fn append(&self, entries: Vec<Entry>) -> Vec<Entry> {
        if entries.is_empty() {
            return entries;
        }
        kill_point(KillPoint::Spilling);
        // Shared, so that they come back whatever becomes of the work.
        let entries = Arc::new(entries);
        let theirs = entries.clone();
        let appended = self.on_disk(move |journal| {
            let appended = match journal.append(&theirs) {
                Ok(appended) => appended,
                Err(error) => return (0, Err(error)),
            };
            // Why a disk took no more is told with the next ones.
            match theirs.get(appended..) {
                Some(rest) if !rest.is_empty() => match journal.append(rest) {
                    Ok(more) => (appended + more, Ok(())),
                    Err(error) => (appended, Err(error)),
                },
                _ => (appended, Ok(())),
            }
        });
        let (appended, result) = appended.await.unwrap_or((0, Ok(())));
        kill_point(KillPoint::Spilled);
        self.report(result);
        let mut entries = Arc::unwrap_or_clone(entries);
        entries.split_off(appended.min(entries.len()))
    }

    /// What waits longest.
    async fn oldest(&self) -> Option<Batch> {
        let read = self.on_disk(|journal| journal.peek(READ_ENTRIES)).await?;
        match read {
            Ok(batch) => Some(batch),
            Err(error) => {
                self.report(Err(error));
                None
            }
        }
    }

    async fn done(&self, batch: Batch) {
        if let Some(result) = self.on_disk(move |journal| journal.done(batch)).await {
            self.report(result);
        }
    }

    /// Takes over what processes that have ended have left behind.
    pub(super) async fn adopt_now_and_then(&self) {
        {
            let mut adopted = lock(&self.shared.adopted);
            if adopted.elapsed() < ADOPT_EVERY {
                return;
            }
            *adopted = Instant::now();
        }
        if let Some(Err(error)) = self.on_disk(|journal| journal.adopt().map(drop)).await {
            self.report(Err(error));
        }
    }

    /// Writes what waits longest to the database, in order; `false` if nothing waits.
    pub(super) async fn write_back(&self, writer: &Writer) -> Result<bool, StoreError> {
        if self.is_empty() {
            return Ok(false);
        }
        if let Some(refusal) = writer.store.refusal() {
            return Err(refusal);
        }
        let batch = self.oldest().await;
        let damaged = self.shared.damaged.swap(0, Relaxed);
        if damaged > 0 {
            writer.drops.damaged(&writer.health, damaged);
        }
        let Some(batch) = batch else {
            return Ok(false);
        };
        if batch.entries.is_empty() {
            return Ok(false);
        }
        for wave in waves(&batch.entries) {
            write_wave(writer, wave).await?;
        }
        kill_point(KillPoint::BackFilled);
        self.done(batch).await;
        Ok(true)
    }

    /// Does something with the journal where it may block; `None` if the runtime is shutting down.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Journal) -> T + Send + 'static,
    ) -> Option<T> {
        let shared = self.shared.clone();
        let work = move || {
            let mut journal = lock(&shared.journal);
            let damaged = journal.damaged();
            let done = work(&mut journal);
            shared
                .damaged
                .fetch_add(journal.damaged() - damaged, Relaxed);
            shared.is_empty.store(journal.is_empty(), Relaxed);
            shared.entries.store(journal.rows(), Relaxed);
            shared.bytes.store(journal.bytes(), Relaxed);
            done
        };
        tokio::task::spawn_blocking(work).await.ok()
    }

    fn report(&self, result: Result<(), SpillError>) {
        let was_in_trouble = self.shared.in_trouble.swap(result.is_err(), Relaxed);
        match result {
            Err(error) if !was_in_trouble => {
                tracing::error!(%error, "the spill journal does not work; rows that do not fit into memory are dropped");
            }
            Ok(()) if was_in_trouble => tracing::info!("the spill journal works again"),
            Ok(()) | Err(_) => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// When the first mark was made.
    began_ms: Option<i64>,
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
        (at_ms - *self.began_ms.get_or_insert(at_ms)).abs() < SAME_MOMENT_MS
    }
}

/// Writes the entries of a wave.
async fn write_wave(writer: &Writer, entries: &[Entry]) -> Result<(), StoreError> {
    let Writer { store, ledger, .. } = writer;
    let (mut received, mut failed) = (Vec::new(), Vec::new());
    let (mut passed, mut succeeded) = (Vec::new(), Vec::new());
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
                succeeded.push(range.clone());
                latest = latest.max(*at_ms);
            }
        }
    }
    for (kind, rows) in [(RowKind::Received, received), (RowKind::Failed, failed)] {
        for some in distinct(&rows, store.rows_per_statement()) {
            writer.write_rows(kind, some).await?;
        }
    }
    for some in passed.chunks(store.rows_per_statement()) {
        refused_alone(store.pass_failed(ledger, some, latest).await, some.len())?;
    }
    for some in narrow(&succeeded, store.rows_per_statement()) {
        refused_alone(store.succeed(ledger, some, latest).await, some.len())?;
    }
    Ok(())
}

/// Rows in parts, none of which has two of the same record: a statement takes distinct positions.
pub(super) fn distinct(rows: &[LedgerRow], size: usize) -> Vec<&[LedgerRow]> {
    let mut seen = HashSet::new();
    let mut parts = Vec::new();
    let mut from = 0;
    for (at, row) in rows.iter().enumerate() {
        let key = (&row.position, row.record_timestamp_ms);
        if at - from == size || !seen.insert(key) {
            parts.push(&rows[from..at]);
            from = at;
            seen = HashSet::from([key]);
        }
    }
    parts.push(&rows[from..]);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Ranges in parts, each of at most `size` offsets unless it is one range.
fn narrow(ranges: &[OffsetRange], size: usize) -> Vec<&[OffsetRange]> {
    let mut parts = Vec::new();
    let (mut from, mut offsets) = (0, 0);
    for (at, range) in ranges.iter().enumerate() {
        let width = range.next.saturating_sub(range.from);
        offsets += usize::try_from(width).unwrap_or(usize::MAX / 2);
        if offsets > size && at > from {
            parts.push(&ranges[from..at]);
            from = at;
            offsets = usize::try_from(width).unwrap_or(usize::MAX / 2);
        }
    }
    parts.push(&ranges[from..]);
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
#[path = "spilling_tests.rs"]
mod tests;
