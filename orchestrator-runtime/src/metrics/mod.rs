//! The metrics of one pipeline as handles that are made once: the worker and its threads count into them, per
//! batch and never per record. Goes through the `metrics` facade, so that an embedding application's own recorder
//! sees them; only `main` installs one (`recorder.rs`). Never a label from a key or an error text.

mod handles;
mod ledger;
pub mod names;
mod recorder;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, SharedString};
use orchestrator_core::{FailureClass, HoldReason, SourcePartition};

pub use metrics_exporter_prometheus::PrometheusHandle;
#[cfg(test)]
pub(crate) use recorder::build as test_recorder;
pub use recorder::{RecorderError, install_recorder};

use handles::{Family, describe, register_counter, register_gauge, register_histogram};
pub(crate) use ledger::LedgerMetrics;
use names::Metric;

/// The handles of one pipeline, shared by its workers. Made after the recorder is installed: handles made before
/// that count into nothing.
#[derive(Debug)]
pub struct PipelineMetrics {
    pipeline: SharedString,
    /// See [`names::RECORDS_READ`].
    pub records_read: Counter,
    /// See [`names::RECORDS_OK`].
    pub records_ok: Counter,
    /// See [`names::OUTPUTS`].
    pub outputs: Counter,
    /// See [`names::DEAD_LETTERS`].
    pub dead_letters: Counter,
    /// See [`names::RECORDS_SKIPPED`].
    pub records_skipped: Counter,
    /// See [`names::RECORDS_STRIPPED`].
    pub records_stripped: Counter,
    /// See [`names::RECORDS_QUARANTINED`].
    pub records_quarantined: Counter,
    /// See [`names::BATCH_OK`].
    pub batch_ok: Counter,
    /// See [`names::TRANSACTIONS_COMMITTED`].
    pub transactions_committed: Counter,
    /// See [`names::RETRIES`].
    pub retries: Counter,
    /// See [`names::HELD_BYTES`]; kept by [`Health`](crate::health::Health).
    pub held_bytes: Gauge,
    /// See [`names::INFLIGHT_BYTES`].
    pub inflight_bytes: Gauge,
    /// See [`names::TRANSFORM_HUNG`]; kept by [`Health`](crate::health::Health).
    pub transform_hung: Gauge,
    /// See [`names::BATCH_RECORDS`].
    pub batch_records: Histogram,
    /// See [`names::UNIT_SECONDS`].
    pub unit_seconds: Histogram,
    /// See [`names::COMMIT_SECONDS`].
    pub commit_seconds: Histogram,
    /// See [`names::TRANSFORM_SECONDS`].
    pub transform_seconds: Histogram,
    transform_fail: [Counter; 3],
    transactions_aborted: Family<Counter>,
    producer_replaced: Family<Counter>,
    rebalances: Family<Counter>,
    held_partitions: Family<Gauge>,
    rate_limited: Counter,
    rate_limited_micros: AtomicU64,
}

impl PipelineMetrics {
    /// The metrics of the pipeline whose consumer group is `pipeline`, registered and described with the current
    /// recorder.
    pub fn new(pipeline: &str) -> Self {
        describe();
        let pipeline = SharedString::from(pipeline.to_owned());
        let held_partitions = Family::new(&names::HELD_PARTITIONS, &pipeline, register_gauge);
        // Shown as 0 from the start: an alert on what is not there never fires.
        for reason in HoldReason::ALL {
            drop(held_partitions.of(reason.as_str()));
        }
        let counter = |metric: &Metric| register_counter(metric, &pipeline, &[]);
        let gauge = |metric: &Metric| register_gauge(metric, &pipeline, &[]);
        let histogram = |metric: &Metric| register_histogram(metric, &pipeline, &[]);
        Self {
            records_read: counter(&names::RECORDS_READ),
            records_ok: counter(&names::RECORDS_OK),
            outputs: counter(&names::OUTPUTS),
            dead_letters: counter(&names::DEAD_LETTERS),
            records_skipped: counter(&names::RECORDS_SKIPPED),
            records_stripped: counter(&names::RECORDS_STRIPPED),
            records_quarantined: counter(&names::RECORDS_QUARANTINED),
            batch_ok: counter(&names::BATCH_OK),
            transactions_committed: counter(&names::TRANSACTIONS_COMMITTED),
            retries: counter(&names::RETRIES),
            held_bytes: gauge(&names::HELD_BYTES),
            inflight_bytes: gauge(&names::INFLIGHT_BYTES),
            transform_hung: gauge(&names::TRANSFORM_HUNG),
            batch_records: histogram(&names::BATCH_RECORDS),
            unit_seconds: histogram(&names::UNIT_SECONDS),
            commit_seconds: histogram(&names::COMMIT_SECONDS),
            transform_seconds: histogram(&names::TRANSFORM_SECONDS),
            transform_fail: CLASSES.map(|class| {
                register_counter(
                    &names::TRANSFORM_FAIL,
                    &pipeline,
                    &[class.as_str().to_owned()],
                )
            }),
            transactions_aborted: Family::new(
                &names::TRANSACTIONS_ABORTED,
                &pipeline,
                register_counter,
            ),
            producer_replaced: Family::new(&names::PRODUCER_REPLACED, &pipeline, register_counter),
            rebalances: Family::new(&names::REBALANCES, &pipeline, register_counter),
            held_partitions,
            rate_limited: counter(&names::RATE_LIMITED_SECONDS),
            rate_limited_micros: AtomicU64::new(0),
            pipeline,
        }
    }

    /// The pipeline's name: its consumer group.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Failed tries of one class.
    pub fn transform_fail(&self, class: FailureClass) -> &Counter {
        match class {
            FailureClass::Permanent => &self.transform_fail[0],
            FailureClass::Transient => &self.transform_fail[1],
            FailureClass::Infrastructure => &self.transform_fail[2],
        }
    }

    /// A transaction was aborted, for one of the transactor's few reasons.
    pub fn transaction_aborted(&self, reason: &'static str) {
        self.transactions_aborted.of(reason).increment(1);
    }

    /// A producer was replaced, for one of the transactor's few reasons.
    pub fn producer_replaced(&self, reason: &'static str) {
        self.producer_replaced.of(reason).increment(1);
    }

    /// So many rebalance callbacks of a kind ran: `assign`, `revoke` or `lost`.
    pub fn rebalanced(&self, kind: &'static str, times: u64) {
        self.rebalances.of(kind).increment(times);
    }

    /// Time spent waiting for the rate limit. Parts of a second add up before they count.
    pub fn rate_limited(&self, waited: Duration) {
        let waited = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let before = self
            .rate_limited_micros
            .fetch_add(waited, Ordering::Relaxed);
        self.rate_limited
            .absolute(before.saturating_add(waited) / 1_000_000);
    }

    /// The held partitions of one reason; kept by [`Health`](crate::health::Health).
    pub(crate) fn held_partitions(&self, reason: &'static str) -> Gauge {
        self.held_partitions.of(reason)
    }

    /// The lag of one partition; kept by [`Health`](crate::health::Health).
    pub(crate) fn consumer_lag(&self, partition: &SourcePartition) -> Gauge {
        register_gauge(
            &names::CONSUMER_LAG,
            &self.pipeline,
            &[
                partition.topic.as_str().to_owned(),
                partition.partition.to_string(),
            ],
        )
    }
}

const CLASSES: [FailureClass; 3] = [
    FailureClass::Permanent,
    FailureClass::Transient,
    FailureClass::Infrastructure,
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_with_its_pipeline() {
        let recorder = recorder::build();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let metrics = PipelineMetrics::new("orders-group");
            metrics.records_ok.increment(3);
            metrics.transform_fail(FailureClass::Transient).increment(2);
            metrics.transaction_aborted("failed_call");
            metrics.transaction_aborted("failed_call");
            metrics.batch_records.record(250.0);
            metrics.commit_seconds.record(0.004);
            metrics.rate_limited(Duration::from_millis(700));
            metrics.rate_limited(Duration::from_millis(700));
        });
        let text = handle.render();
        for line in [
            r#"orch_records_ok_total{pipeline="orders-group"} 3"#,
            r#"orch_batch_ok_total{pipeline="orders-group"} 0"#,
            r#"orch_transform_fail_total{pipeline="orders-group",class="transient"} 2"#,
            r#"orch_transform_fail_total{pipeline="orders-group",class="permanent"} 0"#,
            r#"orch_transactions_aborted_total{pipeline="orders-group",reason="failed_call"} 2"#,
            r#"orch_held_partitions{pipeline="orders-group",reason="poison"} 0"#,
            r#"orch_rate_limited_seconds_total{pipeline="orders-group"} 1"#,
            r#"orch_batch_records_bucket{pipeline="orders-group",le="300"} 1"#,
            r#"orch_commit_seconds_bucket{pipeline="orders-group",le="0.0025"} 0"#,
            r#"orch_commit_seconds_bucket{pipeline="orders-group",le="0.005"} 1"#,
            "# HELP orch_records_ok_total Records transformed whose outputs are committed.",
            "# TYPE orch_unit_seconds histogram",
        ] {
            assert!(text.lines().any(|it| it == line), "no `{line}` in\n{text}");
        }
    }

    #[test]
    fn two_pipelines_are_told_apart() {
        let recorder = recorder::build();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            PipelineMetrics::new("a").outputs.increment(1);
            PipelineMetrics::new("b").outputs.increment(2);
        });
        let text = handle.render();
        assert!(text.contains(r#"orch_outputs_total{pipeline="a"} 1"#));
        assert!(text.contains(r#"orch_outputs_total{pipeline="b"} 2"#));
    }
}
