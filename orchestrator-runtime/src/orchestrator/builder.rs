//! Puts a pipeline together, and refuses what can never work. Called by embedders and by `main`; it opens no socket
//! and no file, and needs no tokio runtime.

use std::fmt;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use orchestrator_core::{FailureStore, FailureTracker, Transformer};
use tokio::time::Instant;

use super::{Orchestrator, settings};
use crate::config::Config;
use crate::health::Health;
use crate::metrics::PipelineMetrics;
use crate::tracker::LedgerPlan;

/// Why a pipeline cannot be built. Nothing was opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The ledger's settings can never work; the text names the setting and says what would.
    #[error("the failure ledger can never be written: {0}")]
    Ledger(String),
}

/// Builds an [`Orchestrator`].
///
/// ```
/// use orchestrator_runtime::core::{Context, Output, Record, TransformError, transform_fn};
/// use orchestrator_runtime::{CancellationToken, Config, Orchestrator};
///
/// fn copy(record: &Record, _cx: &Context<'_>) -> Result<Output, TransformError> {
///     Ok(Output::new(record.value().unwrap_or_default().to_vec()))
/// }
///
/// # async fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
/// let pipeline = Orchestrator::builder(config).transformer(transform_fn(copy)).build()?;
/// let drained = pipeline.run(CancellationToken::new()).await?;
/// println!("{} records", drained.counts.ok);
/// # Ok(()) }
/// ```
pub struct Builder<T = ()> {
    config: Config,
    transformer: T,
    ledger: Chosen,
    prometheus: Option<PrometheusHandle>,
}

/// Who is to keep the failures.
enum Chosen {
    Configured,
    Tracker(Arc<dyn FailureTracker>),
    Store(Arc<dyn FailureStore>),
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            transformer: (),
            ledger: Chosen::Configured,
            prometheus: None,
        }
    }
}

impl<T> Builder<T> {
    /// What makes outputs of records. Required.
    pub fn transformer<U: Transformer>(self, transformer: U) -> Builder<U> {
        Builder {
            config: self.config,
            transformer,
            ledger: self.ledger,
            prometheus: self.prometheus,
        }
    }

    /// A failure tracker of one's own, instead of what `ORCH_DB_STRATEGY` names, under guard: it runs on a thread of its
    /// own, each call may take `ORCH_DB_BATCH_BUDGET_MS`, panics are caught, and one that keeps failing is left alone for
    /// `ORCH_DB_CIRCUIT_OPEN_MS`. What it does not take is counted, or with `ORCH_DB_DEGRADE_DONT_BLOCK=false` holds its
    /// partition until it does. The example `webhook_tracker` is a complete one.
    #[must_use]
    pub fn failure_tracker(mut self, tracker: impl FailureTracker) -> Self {
        self.ledger = Chosen::Tracker(Arc::new(tracker));
        self
    }

    /// A database of one's own, instead of the one that `ORCH_DB_URL` names; strategy, time-outs, circuit breaker and
    /// metrics are round it as round the others. The example `in_memory_store` is a complete one.
    #[must_use]
    pub fn failure_store(mut self, store: impl FailureStore) -> Self {
        self.ledger = Chosen::Store(Arc::new(store));
        self
    }

    /// Has `/metrics` of the [`Handle`](super::Handle)'s router answer from this recorder.
    #[must_use]
    pub fn prometheus(mut self, prometheus: PrometheusHandle) -> Self {
        self.prometheus = Some(prometheus);
        self
    }
}

impl<T: Transformer> Builder<T> {
    /// The pipeline, not yet running: no socket is opened. Its metrics go to the recorder that the process has now.
    ///
    /// # Errors
    /// What can never work, whatever is up or down.
    pub fn build(self) -> Result<Orchestrator<T>, BuildError> {
        let config = self.config;
        let settings = settings::ledger(&config);
        let ledger = match self.ledger {
            Chosen::Tracker(tracker) => Ok(LedgerPlan::with_tracker(tracker, settings)),
            Chosen::Store(store) => LedgerPlan::with_store(store, settings),
            Chosen::Configured => LedgerPlan::new(settings),
        };
        let ledger = ledger.map_err(|error| BuildError::Ledger(error.message))?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let metrics = Arc::new(PipelineMetrics::new(&config.kafka.group_id));
        let now = Instant::now().into_std();
        let stall = config.ops.stall_timeout;
        let health = Health::new(metrics.clone(), config.workers, stall, now);
        Ok(Orchestrator {
            ledger,
            config,
            transformer: Arc::new(self.transformer),
            metrics,
            health,
            prometheus: self.prometheus,
        })
    }
}

impl<T> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
