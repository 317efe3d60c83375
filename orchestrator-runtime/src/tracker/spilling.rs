//! The journal at the strategies' service: what the database did not take is appended to it, and written from it
//! once the database is well again. Blocking file work is kept off the runtime's threads. It must never lose an
//! entry without saying how many, nor wait for a disk that does not answer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::{FailureStore, LedgerIdentity, StoreError};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::replay::replay;
use super::spill::{Batch, Entry, Journal, SpillError};
use super::writer::Writer;
use crate::kill_points::{KillPoint, kill_point};

/// So many entries are read back at a time,
const READ_ENTRIES: usize = 1000;
/// and no more than so many for each row that a statement is about.
const ENTRIES_A_ROW: usize = 20;
/// So many entries are appended at a time,
const APPEND_ENTRIES: usize = 1000;
/// and waited for no longer than this: a disk that takes longer does not answer. What was begun goes on.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether other processes have left something behind.
const ADOPT_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
pub(super) struct Spill {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Arc<tokio::sync::Mutex<Journal>>,
    folder: PathBuf,
    /// Since when something is being done with it.
    busy: Mutex<Option<Instant>>,
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

/// What was written back from the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// Some entries; there may be more.
    Some,
    /// Nothing waits.
    Nothing,
    /// Something waits, and cannot be had: the rest must not wait for it.
    Unreadable,
}

impl Spill {
    /// Opens the journal in `folder`.
    pub(super) async fn open(
        folder: &Path,
        ledger: &LedgerIdentity,
        max_bytes: u64,
    ) -> Result<Self, SpillError> {
        let (path, ledger) = (folder.to_owned(), ledger.clone());
        let open = spawn_blocking(move || Journal::open(&path, &ledger, max_bytes));
        let journal = open
            .await
            .unwrap_or_else(|_| Err(SpillError::no_answer(folder)))?;
        let spill = Self {
            shared: Arc::new(Shared {
                is_empty: AtomicBool::new(journal.is_empty()),
                entries: AtomicU64::new(journal.rows()),
                bytes: AtomicU64::new(journal.bytes()),
                journal: Arc::new(tokio::sync::Mutex::new(journal)),
                folder: folder.to_owned(),
                busy: Mutex::new(None),
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

    /// Appends entries, and gives back those that did not fit; some that the disk does not answer for in time, too. Those may
    /// be there in the end for all that, which does no harm: every entry may be repeated.
    ///
    /// Not cancel safe: what did not fit is lost when the future is dropped.
    pub(super) async fn append(&self, mut entries: Vec<Entry>) -> Vec<Entry> {
        while !entries.is_empty() {
            if self.is_stuck() {
                self.report(Err(SpillError::no_answer(&self.shared.folder)));
                return entries;
            }
            let rest = entries.split_off(entries.len().min(APPEND_ENTRIES));
            let mut left = self.append_some(entries).await;
            if !left.is_empty() {
                left.extend(rest);
                return left;
            }
            entries = rest;
        }
        entries
    }

    async fn append_some(&self, entries: Vec<Entry>) -> Vec<Entry> {
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
        let (appended, result) = match timeout(PATIENCE, appended).await {
            Ok(appended) => appended.unwrap_or((0, Ok(()))),
            Err(_) => (0, Err(SpillError::no_answer(&self.shared.folder))),
        };
        kill_point(KillPoint::Spilled);
        self.report(result);
        let mut entries = Arc::unwrap_or_clone(entries);
        entries.split_off(appended.min(entries.len()))
    }

    /// What waits longest.
    async fn oldest(&self, entries: usize) -> Option<Batch> {
        let read = self.on_disk(move |journal| journal.peek(entries)).await?;
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
        self.take_over().await;
    }

    /// Writes what waits longest to the database, in order.
    pub(super) async fn write_back(&self, writer: &Writer) -> Result<Back, StoreError> {
        if self.is_empty() {
            return Ok(Back::Nothing);
        }
        if let Some(refusal) = writer.store.refusal() {
            return Err(refusal);
        }
        // Less at a time of a database that is slow, so that it gets somewhere: a batch is done as a whole.
        let most = writer
            .store
            .rows_per_statement()
            .saturating_mul(ENTRIES_A_ROW);
        let batch = self.oldest(most.min(READ_ENTRIES)).await;
        let damaged = self.shared.damaged.swap(0, Relaxed);
        if damaged > 0 {
            writer.drops.damaged(&writer.health, damaged);
        }
        let Some(batch) = batch else {
            return Ok(Back::Unreadable);
        };
        if batch.entries.is_empty() {
            return Ok(Back::Unreadable);
        }
        replay(writer, &batch.entries).await?;
        kill_point(KillPoint::BackFilled);
        self.done(batch).await;
        Ok(Back::Some)
    }

    /// Does something with the journal where it may block; `None` if the runtime is shutting down. Of several things only
    /// one is ever under way, so that a disk that does not answer costs one thread.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Journal) -> T + Send + 'static,
    ) -> Option<T> {
        let mut journal = self.shared.journal.clone().lock_owned().await;
        let busy = Busy::now(self.shared.clone());
        let work = move || {
            let shared = &busy.0;
            let damaged = journal.damaged();
            let done = work(&mut journal);
            shared
                .damaged
                .fetch_add(journal.damaged() - damaged, Relaxed);
            shared.is_empty.store(journal.is_empty(), Relaxed);
            shared.entries.store(journal.rows(), Relaxed);
            shared.bytes.store(journal.bytes(), Relaxed);
            drop(busy);
            done
        };
        spawn_blocking(work).await.ok()
    }

    /// Whether what is under way takes so long that nobody should wait behind it.
    pub(super) fn is_stuck(&self) -> bool {
        let since = *lock(&self.shared.busy);
        since.is_some_and(|since| since.elapsed() >= PATIENCE)
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

/// Something is being done with the journal.
struct Busy(Arc<Shared>);

impl Busy {
    fn now(shared: Arc<Shared>) -> Self {
        *lock(&shared.busy) = Some(Instant::now());
        Self(shared)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.busy) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "spilling_tests.rs"]
mod tests;
