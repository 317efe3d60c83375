//! How the ledger's database is: written by the guard and the writer, read by health endpoints. Plain state; it
//! must never decide anything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use orchestrator_core::breaker::CircuitState;

use crate::metrics::LedgerMetrics;

/// Whether failures reach the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DbState {
    /// They do.
    Up,
    /// They do not, or not all of them yet.
    Degraded {
        /// Why, with the remedy; no secrets.
        reason: String,
    },
}

/// What the ledger has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerCounters {
    /// RECEIVED and FAILED rows written, repeats included.
    pub rows_written: u64,
    /// Rows that wait for the database.
    pub rows_waiting: u64,
    /// Rows given up.
    pub rows_dropped: u64,
    /// Statements that failed.
    pub statement_errors: u64,
}

/// How the ledger's database is.
#[derive(Debug)]
pub struct LedgerHealth {
    metrics: LedgerMetrics,
    state: Mutex<State>,
    written: AtomicU64,
    waiting: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
}

#[derive(Debug)]
struct State {
    circuit: CircuitState,
    trouble: Option<String>,
}

impl LedgerHealth {
    pub(super) fn new(metrics: LedgerMetrics) -> Self {
        let state = State {
            circuit: CircuitState::Closed,
            trouble: Some("the database has not been reached yet".to_owned()),
        };
        let health = Self {
            metrics,
            state: Mutex::new(state),
            written: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        };
        health.publish();
        health
    }

    /// Whether failures reach the database.
    pub fn state(&self) -> DbState {
        let state = self.lock();
        let waiting = self.waiting.load(Relaxed);
        let circuit = match state.circuit {
            CircuitState::Closed => String::new(),
            other => format!(", circuit {}", other.as_str()),
        };
        match &state.trouble {
            Some(trouble) => DbState::Degraded {
                reason: format!("{trouble} ({waiting} rows wait{circuit})"),
            },
            None if waiting > 0 => DbState::Degraded {
                reason: format!("{waiting} rows wait to be written{circuit}"),
            },
            None => DbState::Up,
        }
    }

    /// The circuit breaker's state when it was last asked.
    pub fn circuit(&self) -> CircuitState {
        self.lock().circuit
    }

    /// What the ledger has done since its start.
    pub fn counters(&self) -> LedgerCounters {
        LedgerCounters {
            rows_written: self.written.load(Relaxed),
            rows_waiting: self.waiting.load(Relaxed),
            rows_dropped: self.dropped.load(Relaxed),
            statement_errors: self.errors.load(Relaxed),
        }
    }

    /// What is counted beside.
    pub(super) fn metrics(&self) -> &LedgerMetrics {
        &self.metrics
    }

    pub(super) fn statement_worked(&self, circuit: CircuitState) {
        let mut state = self.lock();
        state.circuit = circuit;
        state.trouble = None;
        drop(state);
        self.publish();
    }

    pub(super) fn statement_failed(&self, circuit: CircuitState, trouble: String) {
        self.errors.fetch_add(1, Relaxed);
        let mut state = self.lock();
        state.circuit = circuit;
        state.trouble = Some(trouble);
        drop(state);
        self.publish();
    }

    /// The database answered, if only to refuse a row.
    pub(super) fn statement_refused(&self, circuit: CircuitState) {
        self.errors.fetch_add(1, Relaxed);
        self.statement_worked(circuit);
    }

    pub(super) fn rows_written(&self, rows: usize) {
        self.written.fetch_add(rows as u64, Relaxed);
        self.metrics.rows_written(rows);
    }

    pub(super) fn rows_dropped(&self, rows: usize) {
        self.dropped.fetch_add(rows as u64, Relaxed);
    }

    /// How many rows wait, and what of them is on disk.
    pub(super) fn rows_waiting(&self, rows: u64, spill_bytes: u64) {
        self.metrics.waiting(rows, spill_bytes);
        if self.waiting.swap(rows, Relaxed) != rows {
            self.publish();
        }
    }

    fn publish(&self) {
        let degraded = self.state() != DbState::Up;
        let open = self.circuit() != CircuitState::Closed;
        self.metrics.database(open, degraded);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
