//! The journal at the strategies' service: what the database did not take is appended to it, and written from it
//! once the database is well again. Blocking file work is kept off the runtime's threads. It must never lose an
//! entry without saying how many, nor wait for a disk that does not answer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::{FailureStore, LedgerIdentity, StoreError, StoreErrorClass};
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
/// What opening the journal may take, with all that waits in it.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether other processes have left something behind.
const ADOPT_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
pub(super) struct Spill {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Arc<tokio::sync::Mutex<Journal>>,
    /// Where it is.
    folder: PathBuf,
    /// The most that anybody waits for what is done with it. What was begun goes on.
    patience: Duration,
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

impl Spill {
    /// Opens the journal in `folder`. Nobody will wait longer than `patience` for its disk.
    pub(super) async fn open(
        folder: &Path,
        ledger: &LedgerIdentity,
        max_bytes: u64,
        patience: Duration,
    ) -> Result<Self, SpillError> {
        let (path, ledger) = (folder.to_owned(), ledger.clone());
        let open = spawn_blocking(move || Journal::open(&path, &ledger, max_bytes));
        let journal = match timeout(OPEN_MAX, open).await {
            Ok(Ok(journal)) => journal?,
            Ok(Err(_)) | Err(_) => return Err(SpillError::no_answer(folder)),
        };
        let spill = Self {
            shared: Arc::new(Shared {
                is_empty: AtomicBool::new(journal.is_empty()),
                entries: AtomicU64::new(journal.rows()),
                bytes: AtomicU64::new(journal.bytes()),
                journal: Arc::new(tokio::sync::Mutex::new(journal)),
                folder: folder.to_owned(),
                patience,
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
        if let Err(error) = self.on_disk(|journal| journal.adopt().map(drop)).await {
            self.report(Err(error));
        }
    }

    /// Appends entries, and gives back those that did not fit; all of them if the disk does not answer in time. Then they
    /// may be there in the end for all that, which does no harm: every entry may be repeated.
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
            let appended = journal.append(&theirs)?;
            // Why a disk took no more is told with the next ones.
            Ok(match theirs.get(appended..) {
                Some(rest) if !rest.is_empty() => match journal.append(rest) {
                    Ok(more) => (appended + more, Ok(())),
                    Err(error) => (appended, Err(error)),
                },
                _ => (appended, Ok(())),
            })
        });
        let (appended, result) = appended.await.unwrap_or_else(|error| (0, Err(error)));
        kill_point(KillPoint::Spilled);
        self.report(result);
        let mut entries = Arc::unwrap_or_clone(entries);
        entries.split_off(appended.min(entries.len()))
    }

    /// What waits longest.
    async fn oldest(&self, entries: usize) -> Result<Batch, SpillError> {
        self.on_disk(move |journal| journal.peek(entries)).await
    }

    async fn done(&self, batch: Batch) {
        let result = self.on_disk(move |journal| journal.done(batch)).await;
        self.report(result);
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
        if let Err(error) = self.on_disk(|journal| journal.adopt().map(drop)).await {
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
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                // What comes after it must not overtake it just because its disk takes its time.
                let waits = error.is_no_answer().then(|| error.to_string());
                self.report(Err(error));
                let later = |message| StoreError::new(StoreErrorClass::Unavailable, message);
                return waits.map_or(Ok(false), |message| Err(later(message)));
            }
        };
        if batch.entries.is_empty() {
            return Ok(false);
        }
        replay(writer, &batch.entries).await?;
        kill_point(KillPoint::BackFilled);
        self.done(batch).await;
        Ok(true)
    }

    /// Does something with the journal where it may block. Of several things only one is ever under way, so that a disk
    /// that does not answer costs one thread.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Journal) -> Result<T, SpillError> + Send + 'static,
    ) -> Result<T, SpillError> {
        let no_answer = || SpillError::no_answer(&self.shared.folder);
        if self.is_stuck() {
            return Err(no_answer());
        }
        let shared = self.shared.clone();
        let done = timeout(self.shared.patience, async move {
            let mut journal = shared.journal.clone().lock_owned().await;
            let busy = Busy::now(shared);
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
        });
        // None also if the runtime is shutting down.
        done.await
            .ok()
            .flatten()
            .unwrap_or_else(|| Err(no_answer()))
    }

    /// Whether what is under way has taken so long that nobody need wait behind it.
    fn is_stuck(&self) -> bool {
        let since = *lock(&self.shared.busy);
        since.is_some_and(|since| since.elapsed() >= self.shared.patience)
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
