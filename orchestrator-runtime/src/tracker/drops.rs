//! Rows the ledger gives up: each is counted and named in the log, a flood is summed up. Called by the writer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use orchestrator_core::OffsetRange;
use tokio::time::Instant;

use super::health::LedgerHealth;
use super::in_flight::Run;

/// So many lines a window; the rest are summed up in the next.
const MAX_LOG_LINES: usize = 50;
const WINDOW: Duration = Duration::from_secs(10);

/// Why a row was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DropReason {
    /// `ORCH_DB_QUEUE_MAX_ROWS` rows were waiting already.
    QueueFull,
    /// The spill journal took no more (`ORCH_SPILL_MAX_MB`), and the queue was full too.
    SpillFull,
    /// Its entry in the spill journal cannot be read.
    Damaged,
    /// The database refused it even without its payload and text.
    Refused,
    /// The process ended before the database was back.
    Shutdown,
    /// The application's own tracker did not say that it has taken it.
    Tracker,
}

impl DropReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::SpillFull => "spill_full",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
            Self::Tracker => "tracker",
        }
    }
}

/// Counts and logs dropped rows.
#[derive(Debug)]
pub(super) struct Drops {
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    since: Option<Instant>,
    lines: usize,
    unnamed: u64,
}

impl Drops {
    pub(super) fn new() -> Self {
        let window = Window {
            since: None,
            lines: 0,
            unnamed: 0,
        };
        Self {
            window: Mutex::new(window),
        }
    }

    /// Gives up the row of this dedup key.
    pub(super) fn drop_row(&self, health: &LedgerHealth, reason: DropReason, dedup_key: &str) {
        health.rows_dropped(1);
        let reason = reason.as_str();
        health.metrics().rows_dropped(reason, 1);
        if self.may_log(1) {
            tracing::error!(dedupKey = dedup_key, reason, "ledger row dropped");
        }
    }

    /// Entries of the spill journal cannot be read; the journal has said where they are.
    pub(super) fn damaged(&self, health: &LedgerHealth, entries: u64) {
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        health.rows_dropped(entries);
        let reason = DropReason::Damaged.as_str();
        health.metrics().rows_dropped(reason, entries);
    }

    /// Says that the rows of these records, which were passed, are missing.
    pub(super) fn missing(&self, health: &LedgerHealth, reason: DropReason, runs: &[Run]) {
        let reason = reason.as_str();
        for run in runs {
            health.rows_dropped(run.records);
            health.metrics().rows_dropped(reason, run.records);
            if !self.may_log(run.records) {
                continue;
            }
            let OffsetRange {
                partition,
                from,
                next,
            } = &run.range;
            if run.records == 1 {
                let dedup_key = partition.at(*from);
                tracing::error!(dedupKey = %dedup_key, reason, "ledger row dropped");
            } else {
                tracing::error!(
                    rows = run.records,
                    reason,
                    "ledger rows dropped: {partition}, offsets {from} to {}",
                    next - 1
                );
            }
        }
    }

    /// Whether there is room for a line of the log about so many rows; otherwise they are summed up later.
    fn may_log(&self, rows: usize) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if window.is_over(now) {
            window.sum_up();
        }
        window.since.get_or_insert(now);
        if window.lines < MAX_LOG_LINES {
            window.lines += 1;
            return true;
        }
        window.unnamed += rows as u64;
        false
    }

    /// Says how many rows went unnamed, if the window is over.
    pub(super) fn sum_up_old(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.is_over(Instant::now()) {
            window.sum_up();
        }
    }

    /// Says how many rows went unnamed, at the end of the process.
    pub(super) fn sum_up(&self) {
        self.window
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sum_up();
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now - since >= WINDOW)
    }

    fn sum_up(&mut self) {
        if self.unnamed > 0 {
            tracing::error!(
                rows = self.unnamed,
                "more ledger rows were dropped, not named one by one"
            );
        }
        self.lines = 0;
        self.unnamed = 0;
        self.since = None;
    }
}
