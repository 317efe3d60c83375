//! The Prometheus recorder of the binary. Called by `main` only: a recorder is process-wide. An embedding
//! application brings its own, and may use the buckets of `names.rs`.

use std::time::Duration;

use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use thiserror::Error;
use tokio::time::MissedTickBehavior;

use super::names::{self, Kind};

/// How often recorded durations are folded into their buckets, which is what bounds the memory they take.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Why no recorder could be installed.
#[derive(Debug, Error)]
pub enum RecorderError {
    /// The process has one.
    #[error(
        "a metrics recorder is already installed in this process; use that one, the orchestrator counts into it"
    )]
    AlreadyInstalled,
}

/// Installs a Prometheus recorder for the whole process and keeps it tidy for as long as the runtime lives.
/// The handle renders what `/metrics` answers. Call it within a tokio runtime.
///
/// # Errors
/// When the process already has a recorder.
pub fn install_recorder() -> Result<PrometheusHandle, RecorderError> {
    let recorder = build();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| RecorderError::AlreadyInstalled)?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

pub(crate) fn build() -> PrometheusRecorder {
    let mut builder = with_buckets(
        PrometheusBuilder::new(),
        // The transformer's own durations deserve buckets too, as without any they would become summaries.
        Matcher::Suffix("_seconds".to_owned()),
        names::SECONDS,
    );
    for metric in names::ALL {
        if let Kind::Histogram(bounds) = metric.kind {
            builder = with_buckets(builder, Matcher::Full(metric.name.to_owned()), bounds);
        }
    }
    builder.build_recorder()
}

/// The builder refuses empty bounds only, and a test sees to it that there are none.
fn with_buckets(builder: PrometheusBuilder, matcher: Matcher, bounds: &[f64]) -> PrometheusBuilder {
    match builder.set_buckets_for_metric(matcher, bounds) {
        Ok(builder) => builder,
        Err(error) => unreachable!("bounds are constant and not empty: {error}"),
    }
}
