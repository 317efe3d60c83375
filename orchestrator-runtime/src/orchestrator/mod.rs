//! The pipeline as its user holds it: built by a [`Builder`] from a configuration and a transformer, run until it is
//! drained, seen through a [`Handle`]. Used by embedders and by `main`; it touches nothing process-wide, so that
//! several pipelines live in one process, beside whatever else does.

mod builder;
mod ledger;
mod outcome;
mod run;
mod settings;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::config::Config;
use crate::health::Health;
use crate::metrics::PipelineMetrics;
use crate::tracker::LedgerPlan;

pub use builder::{BuildError, Builder};
pub use outcome::{Drained, RunError};

/// A pipeline: consume, transform, produce, exactly once.
pub struct Orchestrator<T> {
    config: Config,
    transformer: Arc<T>,
    ledger: LedgerPlan,
    metrics: Arc<PipelineMetrics>,
    health: Health,
    prometheus: Option<PrometheusHandle>,
}

impl Orchestrator<()> {
    /// Begins to build a pipeline.
    pub fn builder(config: Config) -> Builder<()> {
        Builder::new(config)
    }
}

impl<T> Orchestrator<T> {
    /// What can be seen of it from outside.
    pub fn handle(&self) -> Handle {
        Handle {
            health: self.health.clone(),
            prometheus: self.prometheus.clone(),
        }
    }
}

impl<T> fmt::Debug for Orchestrator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What can be seen of a pipeline from outside: before it runs, while it does, and after.
#[derive(Clone, Debug)]
pub struct Handle {
    health: Health,
    prometheus: Option<PrometheusHandle>,
}

impl Handle {
    /// Its health.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// `/livez`, `/readyz`, `/health` and `/metrics`, to be served or merged into a router of one's own; an
    /// application with several pipelines nests one router for each.
    pub fn router(&self) -> Router {
        crate::http::router(self.health.clone(), self.prometheus.clone())
    }
}
