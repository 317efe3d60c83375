//! The ledger's metrics, as handles that are made once: the tracker and its guard count into them. Made with the
//! pipeline, so that `/metrics` shows the gauges of a ledger that is off too.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, SharedString};

use super::handles::{Family, describe, register_counter, register_gauge, register_histogram};
use super::names;

/// See the module.
#[derive(Debug)]
pub(crate) struct LedgerMetrics {
    circuit_open: Gauge,
    degraded: Gauge,
    statement_seconds: Family<Histogram>,
    errors: Family<Counter>,
    rows_dropped: Family<Counter>,
    failures_logged: Family<Counter>,
    tracker_errors: Family<Counter>,
    rows_written: Counter,
    rows_waiting: Gauge,
    rows_settled: Family<Counter>,
    rows_pruned: Counter,
    spill_bytes: Gauge,
}

impl LedgerMetrics {
    /// Those of the pipeline whose consumer group is `pipeline`, registered and described with the current recorder.
    pub(crate) fn new(pipeline: &str) -> Self {
        describe();
        let pipeline = SharedString::from(pipeline.to_owned());
        let counters = |metric| Family::new(metric, &pipeline, register_counter);
        Self {
            circuit_open: register_gauge(&names::DB_CIRCUIT_OPEN, &pipeline, &[]),
            degraded: register_gauge(&names::DB_DEGRADED, &pipeline, &[]),
            statement_seconds: Family::new(
                &names::DB_STATEMENT_SECONDS,
                &pipeline,
                register_histogram,
            ),
            errors: counters(&names::DB_ERRORS),
            rows_dropped: counters(&names::LEDGER_ROWS_DROPPED),
            failures_logged: counters(&names::LEDGER_FAILURES_LOGGED),
            tracker_errors: counters(&names::LEDGER_TRACKER_ERRORS),
            rows_written: register_counter(&names::LEDGER_ROWS_WRITTEN, &pipeline, &[]),
            rows_settled: counters(&names::LEDGER_ROWS_SETTLED),
            rows_pruned: register_counter(&names::LEDGER_ROWS_PRUNED, &pipeline, &[]),
            rows_waiting: register_gauge(&names::LEDGER_ROWS_WAITING, &pipeline, &[]),
            spill_bytes: register_gauge(&names::LEDGER_SPILL_BYTES, &pipeline, &[]),
        }
    }

    /// How the database is.
    pub(crate) fn database(&self, circuit_open: bool, degraded: bool) {
        self.circuit_open.set(f64::from(u8::from(circuit_open)));
        self.degraded.set(f64::from(u8::from(degraded)));
    }

    /// A statement has ended, well or not.
    pub(crate) fn statement(&self, name: &'static str, took: Duration) {
        self.statement_seconds.of(name).record(took.as_secs_f64());
    }

    /// A statement has failed.
    pub(crate) fn statement_failed(&self, class: &'static str) {
        self.errors.of(class).increment(1);
    }

    /// Rows were given up.
    pub(crate) fn rows_dropped(&self, reason: &'static str, rows: usize) {
        self.rows_dropped.of(reason).increment(rows as u64);
    }

    /// Rows were written.
    pub(crate) fn rows_written(&self, rows: usize) {
        self.rows_written.increment(rows as u64);
    }

    /// What waits, and what of it is on disk.
    pub(crate) fn waiting(&self, rows: u64, spill_bytes: u64) {
        self.rows_waiting.set(rows as f64);
        self.spill_bytes.set(spill_bytes as f64);
    }

    /// The safeguard has settled rows.
    pub(crate) fn rows_settled(&self, settlement: &'static str, rows: usize) {
        self.rows_settled.of(settlement).increment(rows as u64);
    }

    /// The retention has deleted rows.
    pub(crate) fn rows_pruned(&self, rows: u64) {
        self.rows_pruned.increment(rows);
    }

    /// A call of the application's own tracker did not work.
    pub(crate) fn tracker_failed(&self, reason: &'static str) {
        self.tracker_errors.of(reason).increment(1);
    }

    /// A failure was logged and no row of it kept.
    pub(crate) fn failure_logged(&self, class: &'static str) {
        self.failures_logged.of(class).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::test_recorder;

    #[test]
    fn what_the_ledger_counts_is_rendered_and_described() {
        let recorder = test_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let metrics = LedgerMetrics::new("g");
            metrics.database(true, false);
            metrics.statement("upsert_failed", Duration::from_millis(4));
            metrics.statement_failed("timeout");
            metrics.rows_dropped("queue_full", 1);
            metrics.rows_settled("stale", 3);
            metrics.rows_pruned(5);
            metrics.failure_logged("permanent");
        });
        let text = handle.render();
        for line in [
            r#"orch_db_circuit_open{pipeline="g"} 1"#,
            r#"orch_db_degraded{pipeline="g"} 0"#,
            r#"orch_db_statement_seconds_bucket{pipeline="g",statement="upsert_failed",le="0.005"} 1"#,
            r#"orch_db_errors_total{pipeline="g",class="timeout"} 1"#,
            r#"orch_ledger_rows_dropped_total{pipeline="g",reason="queue_full"} 1"#,
            r#"orch_ledger_rows_settled_total{pipeline="g",settlement="stale"} 3"#,
            r#"orch_ledger_rows_pruned_total{pipeline="g"} 5"#,
            r#"orch_ledger_failures_logged_total{pipeline="g",class="permanent"} 1"#,
            "# TYPE orch_db_statement_seconds histogram",
            "# HELP orch_db_errors_total Statements of the ledger that failed: unavailable, timeout, exhausted, conflict or data.",
        ] {
            assert!(text.lines().any(|it| it == line), "no `{line}` in\n{text}");
        }
    }
}
