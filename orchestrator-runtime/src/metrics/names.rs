//! Every metric of the orchestrator in one table: name, kind, labels, help. Registered by `metrics/mod.rs`, given
//! buckets by `metrics/recorder.rs`. No name, bucket or help text may stand anywhere else.

use metrics::Unit;

/// The label every metric carries: the consumer group of the pipeline.
pub const PIPELINE: &str = "pipeline";

/// Upper bounds for durations, in seconds: OpenTelemetry messaging's 0.005 to 10, plus three for what is faster.
pub const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0,
];

/// Upper bounds for how many records are in a batch.
pub const RECORDS: &[f64] = &[
    1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0,
];

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, unit included.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// Its labels beside [`PIPELINE`].
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

macro_rules! table {
    ($($id:ident = $kind:expr, $unit:ident, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Metric = Metric {
            name: $name, kind: $kind, unit: Unit::$unit, labels: &[$($label),*], help: $help,
        };)*
        /// All of them, in the order of the table.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

table! {
    RECORDS_READ = Counter, Count, "orch_records_read_total", [], "Records taken from the sources; again after a rewind.";
    RECORDS_OK = Counter, Count, "orch_records_ok_total", [], "Records transformed whose outputs are committed.";
    OUTPUTS = Counter, Count, "orch_outputs_total", [], "Outputs committed, without dead letters.";
    DEAD_LETTERS = Counter, Count, "orch_dead_letters_total", [], "Dead letters committed.";
    RECORDS_SKIPPED = Counter, Count, "orch_records_skipped_total", [], "Failed records that were recorded and passed.";
    RECORDS_STRIPPED = Counter, Count, "orch_records_stripped_total", [], "Records taken out of a unit at hand-over: their partition had moved or been rewound.";
    RECORDS_QUARANTINED = Counter, Count, "orch_records_quarantined_total", [], "Records found to end the process each time they are transformed, and taken for poison; once more after a restart.";
    BATCH_OK = Counter, Count, "orch_batch_ok_total", [], "Units of work committed.";
    TRANSACTIONS_COMMITTED = Counter, Count, "orch_transactions_committed_total", [], "Transactions committed; a unit of work that is split by partition takes several.";
    TRANSACTIONS_ABORTED = Counter, Count, "orch_transactions_aborted_total", ["reason"], "Transactions aborted; their records are sent again or read again.";
    PRODUCER_REPLACED = Counter, Count, "orch_producer_replaced_total", ["reason"], "Transactional producers replaced by a new one.";
    TRANSFORM_FAIL = Counter, Count, "orch_transform_fail_total", ["class"], "Failed tries of a transform: permanent, transient or infrastructure.";
    RETRIES = Counter, Count, "orch_retries_total", [], "Tries of a transform after the first.";
    TRANSFORM_HUNG = Gauge, Count, "orch_transform_hung", [], "Synchronous transforms past their deadline that still hold a thread.";
    REBALANCES = Counter, Count, "orch_rebalances_total", ["kind"], "Rebalances as this consumer saw them: assign, revoke or lost.";
    CONSUMER_LAG = Gauge, Count, "orch_consumer_lag", ["topic", "partition"], "Offsets from the committed one to the end; commit markers at the end are not counted.";
    HELD_PARTITIONS = Gauge, Count, "orch_held_partitions", ["reason"], "Partitions that wait while the others flow.";
    HELD_BYTES = Gauge, Bytes, "orch_held_bytes", [], "Records kept in memory for held partitions.";
    INFLIGHT_BYTES = Gauge, Bytes, "orch_inflight_bytes", [], "Records read and outputs made that are not committed yet.";
    RATE_LIMITED_SECONDS = Counter, Seconds, "orch_rate_limited_seconds_total", [], "Whole seconds spent waiting for the rate limit.";
    BATCH_RECORDS = Histogram(RECORDS), Count, "orch_batch_records", [], "Records in a unit of work.";
    UNIT_SECONDS = Histogram(SECONDS), Seconds, "orch_unit_seconds", [], "From a unit of work handed over to its commit.";
    COMMIT_SECONDS = Histogram(SECONDS), Seconds, "orch_commit_seconds", [], "From begin to commit of a transaction.";
    TRANSFORM_SECONDS = Histogram(SECONDS), Seconds, "orch_transform_seconds", [], "Transform of one chunk of records of a partition, or of one record that is tried again.";
    DB_CIRCUIT_OPEN = Gauge, Count, "orch_db_circuit_open", [], "1 while the circuit breaker keeps the ledger's database alone.";
    DB_DEGRADED = Gauge, Count, "orch_db_degraded", [], "1 while records flow, or wait, although the ledger cannot be written.";
    DB_STATEMENT_SECONDS = Histogram(SECONDS), Seconds, "orch_db_statement_seconds", ["statement"], "Statements of the ledger, failed ones included.";
    DB_ERRORS = Counter, Count, "orch_db_errors_total", ["class"], "Statements of the ledger that failed: unavailable, timeout, exhausted, conflict or data.";
    LEDGER_ROWS_DROPPED = Counter, Count, "orch_ledger_rows_dropped_total", ["reason"], "Rows of passed records given up: queue_full, spill_full, damaged, refused, shutdown or tracker.";
    LEDGER_ROWS_WRITTEN = Counter, Count, "orch_ledger_rows_written_total", [], "RECEIVED and FAILED rows written, repeats included.";
    LEDGER_ROWS_WAITING = Gauge, Count, "orch_ledger_rows_waiting", [], "Rows that wait for the database, in memory and in the spill journal.";
    LEDGER_SPILL_BYTES = Gauge, Bytes, "orch_ledger_spill_bytes", [], "What the spill journal takes on disk.";
    LEDGER_ROWS_SETTLED = Counter, Count, "orch_ledger_rows_settled_total", ["settlement"], "Rows found RECEIVED for too long and settled: success, unknown or stale.";
    LEDGER_ROWS_PRUNED = Counter, Count, "orch_ledger_rows_pruned_total", [], "SUCCESS rows deleted by the retention.";
    LEDGER_TRACKER_ERRORS = Counter, Count, "orch_ledger_tracker_errors_total", ["reason"], "Calls of the application's own failure tracker that did not work: error, timeout, panic, busy or circuit_open.";
    LEDGER_FAILURES_LOGGED = Counter, Count, "orch_ledger_failures_logged_total", ["class"], "Failures that were only logged, because ORCH_DB_STRATEGY=NONE keeps no rows.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_follow_the_conventions() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("orch_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Counter,
                "{name}: counters, and only they, end in _total"
            );
            let stem = name.trim_end_matches("_total");
            assert_eq!(
                stem.ends_with("_seconds"),
                metric.unit == Unit::Seconds,
                "{name}"
            );
            assert_eq!(
                stem.ends_with("_bytes"),
                metric.unit == Unit::Bytes,
                "{name}"
            );
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "a name stands twice");
    }

    #[test]
    fn buckets_grow() {
        for metric in ALL {
            if let Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted(), "{}", metric.name);
            }
        }
    }
}
