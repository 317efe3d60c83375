//! The failure ledger: strategies over a store, and what guards them. Planned when the pipeline is built, before
//! anything is open, started when it runs, and driven by the worker through `FailureTracker`. Nothing here may stop
//! Kafka unless the user asked for it (`ORCH_DB_DEGRADE_DONT_BLOCK=false`), and nothing may show the database's URL.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_core::{FailureStore, FailureTracker, LedgerIdentity, TrackerError};

use crate::config::{StorePayload, Strategy};
use crate::metrics::LedgerMetrics;

mod background;
mod built_in;
mod drops;
mod given_up;
mod guarded;
mod guarded_tracker;
mod health;
mod in_flight;
mod none;
mod owned;
mod pace;
mod queue;
mod queued;
mod received;
mod replay;
mod retention;
mod safeguard;
mod settled;
mod shared;
mod spill;
mod spilling;
pub mod stores;
mod successes;
mod upkeep;
mod watch;
mod writer;

#[cfg(test)]
pub(crate) mod fake_store;

pub use health::{DbState, LedgerCounters, LedgerHealth};
pub use none::NoTracker;
pub(crate) use shared::SharedTracker;

/// How the ledger is kept.
#[derive(Clone)]
pub struct LedgerSettings {
    /// `ORCH_DB_STRATEGY`.
    pub strategy: Strategy,
    /// `ORCH_DB_URL`: a secret, which `Debug` leaves out.
    pub url: Option<String>,
    /// `ORCH_ERROR_TABLE`.
    pub table: String,
    /// `ORCH_DB_TIMEOUT_MS`: for one statement.
    pub timeout: Duration,
    /// `ORCH_DB_BATCH_BUDGET_MS`: for all statements of one call.
    pub batch_budget: Duration,
    /// `ORCH_DB_CIRCUIT_FAILURE_THRESHOLD`.
    pub circuit_failure_threshold: u32,
    /// `ORCH_DB_CIRCUIT_OPEN_MS`.
    pub circuit_open: Duration,
    /// `ORCH_DB_DEGRADE_DONT_BLOCK`.
    pub degrade_dont_block: bool,
    /// `ORCH_DB_QUEUE_MAX_ROWS`.
    pub queue_max_rows: usize,
    /// `ORCH_STORE_PAYLOAD`.
    pub store_payload: StorePayload,
    /// `ORCH_SPILL_DIR`.
    pub spill_dir: Option<PathBuf>,
    /// `ORCH_SPILL_MAX_MB`, in bytes.
    pub spill_max_bytes: u64,
    /// `ORCH_DB_MAX_CONNECTIONS`.
    pub max_connections: usize,
    /// `ORCH_SAFEGUARD_STALE_MS`; `None` leaves rows that are RECEIVED for ever alone.
    pub safeguard_stale: Option<Duration>,
    /// `ORCH_LEDGER_RETENTION_HOURS`; `None` keeps rows for ever.
    pub retention: Option<Duration>,
    /// Whether only successes are ever passed: ATOMIC, with poison that blocks.
    pub only_success_passes: bool,
    /// The value of the metrics' `pipeline` label.
    pub pipeline: String,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy::None,
            url: None,
            table: "event_failures".to_owned(),
            timeout: Duration::from_millis(150),
            batch_budget: Duration::from_millis(1000),
            circuit_failure_threshold: 5,
            circuit_open: Duration::from_millis(10_000),
            degrade_dont_block: true,
            queue_max_rows: 10_000,
            store_payload: StorePayload::Failed,
            spill_dir: None,
            spill_max_bytes: 1024 * 1024 * 1024,
            max_connections: 20,
            safeguard_stale: Some(Duration::from_secs(300)),
            retention: Some(Duration::from_secs(168 * 3600)),
            only_success_passes: false,
            pipeline: String::new(),
        }
    }
}

impl fmt::Debug for LedgerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerSettings")
            .field("strategy", &self.strategy)
            .field("url", &self.url.as_ref().map(|_| "***"))
            .field("table", &self.table)
            .field("degrade_dont_block", &self.degrade_dont_block)
            .finish_non_exhaustive()
    }
}

/// A tracker for the worker, and what is to be known of its database.
#[derive(Clone)]
pub struct Ledger {
    /// The strategy.
    pub tracker: Arc<dyn FailureTracker>,
    /// How its database is; `None` if there is none.
    pub health: Option<Arc<LedgerHealth>>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

/// A ledger whose settings are good, and which is not started yet: nothing is open.
pub struct LedgerPlan {
    settings: LedgerSettings,
    keeper: Keeper,
    metrics: LedgerMetrics,
}

/// Who keeps the failures.
enum Keeper {
    Nobody,
    Store(Arc<dyn FailureStore>),
    Tracker(Arc<dyn FailureTracker>),
}

impl LedgerPlan {
    /// The ledger that `settings` describe.
    ///
    /// # Errors
    /// Settings that can never work.
    pub fn new(settings: LedgerSettings) -> Result<Self, TrackerError> {
        let keeper = match settings.strategy {
            Strategy::None => Keeper::Nobody,
            _ => Keeper::Store(stores::open(&settings)?),
        };
        Ok(Self::kept_by(keeper, settings))
    }

    /// The same over a store of the user's own.
    ///
    /// # Errors
    /// A strategy that writes to no store.
    pub fn with_store(
        store: Arc<dyn FailureStore>,
        settings: LedgerSettings,
    ) -> Result<Self, TrackerError> {
        if settings.strategy == Strategy::None {
            return Err(refused(
                "a failure store was given, but ORCH_DB_STRATEGY=NONE writes to none: use LIGHTWEIGHT",
            ));
        }
        Ok(Self::kept_by(Keeper::Store(store), settings))
    }

    /// A tracker of the user's own, whatever the strategy is set to: it gets the guard.
    pub fn with_tracker(tracker: Arc<dyn FailureTracker>, settings: LedgerSettings) -> Self {
        Self::kept_by(Keeper::Tracker(tracker), settings)
    }

    fn kept_by(keeper: Keeper, settings: LedgerSettings) -> Self {
        Self {
            metrics: LedgerMetrics::new(&settings.pipeline),
            settings,
            keeper,
        }
    }

    /// Whether it writes rows, which say of which cluster they are.
    pub fn writes_rows(&self) -> bool {
        matches!(self.keeper, Keeper::Store(_))
    }

    /// Starts it. Needs a tokio runtime, in which it keeps a task of its own for as long as the tracker lives.
    ///
    /// A database that is down is no error: it is tried again in the background, and until it is there the ledger is
    /// degraded.
    pub async fn start(self, identity: LedgerIdentity) -> Ledger {
        let (tracker, health): (Arc<dyn FailureTracker>, _) = match self.keeper {
            Keeper::Nobody => (Arc::new(NoTracker::counting(self.metrics)), None),
            Keeper::Store(store) => {
                let (tracker, health) =
                    built_in::start(store, &self.settings, self.metrics, identity).await;
                (Arc::new(tracker), Some(health))
            }
            Keeper::Tracker(tracker) => {
                let (tracker, health) =
                    guarded_tracker::start(tracker, &self.settings, self.metrics);
                (Arc::new(tracker), Some(health))
            }
        };
        Ledger { tracker, health }
    }
}

impl fmt::Debug for LedgerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerPlan")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn refused(message: &str) -> TrackerError {
    TrackerError {
        message: message.to_owned(),
    }
}

#[cfg(all(test, feature = "sqlite"))]
#[path = "ledger_tests.rs"]
mod tests;
