//! Turns what workers and transactors tell into metrics and health.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_core::lane::Held;
use orchestrator_core::{FailureClass, HoldReason, SourcePartition};

use crate::health::{Health, HeldView, WorkerHealth, dead_letter_remedy};
use crate::kafka::session::SessionHandle;
use crate::kafka::status::REBALANCES;
use crate::kafka::transactor::TransactorObserver;
use crate::metrics::PipelineMetrics;
use crate::worker::settings::{Counts, WorkerObserver};
use crate::worker::stage::Hung;

/// One worker's.
#[derive(Debug)]
pub(crate) struct Observer {
    metrics: Arc<PipelineMetrics>,
    health: WorkerHealth,
    pipeline: Health,
    session: SessionHandle,
    held_since: BTreeMap<SourcePartition, Instant>,
    in_flight: usize,
    rounds: u64,
}

impl Observer {
    pub(crate) fn new(
        metrics: Arc<PipelineMetrics>,
        health: WorkerHealth,
        pipeline: Health,
        session: SessionHandle,
    ) -> Self {
        Self {
            metrics,
            health,
            pipeline,
            session,
            held_since: BTreeMap::new(),
            in_flight: 0,
            rounds: 0,
        }
    }

    /// The gauge is the sum over workers, each of which adds its part.
    fn set_in_flight(&mut self, bytes: usize) {
        let change = bytes as f64 - self.in_flight as f64;
        self.metrics.inflight_bytes.increment(change);
        self.in_flight = bytes;
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.set_in_flight(0);
    }
}

impl WorkerObserver for Observer {
    fn assigned(&mut self, partition: &SourcePartition, next: i64) {
        self.health.assigned(partition, next);
    }

    fn revoked(&mut self, partition: &SourcePartition) {
        self.held_since.remove(partition);
        self.health.revoked(partition);
    }

    fn taken(&mut self, partition: &SourcePartition, next: i64, records: usize) {
        self.metrics.records_read.increment(records as u64);
        self.health.taken(partition, next, Instant::now());
    }

    fn caught_up(&mut self, partition: &SourcePartition) {
        self.health.to_the_end(partition, 0);
    }

    fn transformed(&mut self, took: Duration) {
        self.metrics.transform_seconds.record(took.as_secs_f64());
    }

    fn failed(&mut self, class: FailureClass) {
        self.metrics.transform_fail(class).increment(1);
    }

    fn retried(&mut self) {
        self.metrics.retries.increment(1);
    }

    fn quarantined(&mut self) {
        self.metrics.records_quarantined.increment(1);
    }

    fn committed(&mut self, counts: &Counts) {
        self.metrics.records_ok.increment(counts.ok);
        self.metrics.outputs.increment(counts.outputs);
        self.metrics.records_skipped.increment(counts.failed);
        self.metrics.dead_letters.increment(counts.dead_letters);
    }

    fn progressed(&mut self, partition: &SourcePartition, next: i64) {
        self.health.committed(partition, next, Instant::now());
    }

    fn unit_committed(&mut self, records: usize, took: Duration) {
        self.metrics.batch_records.record(records as f64);
        self.metrics.batch_ok.increment(1);
        self.metrics.unit_seconds.record(took.as_secs_f64());
    }

    fn rewound(&mut self, partition: &SourcePartition, to: i64) {
        self.health.rewound(partition, to, Instant::now());
    }

    fn held(&mut self, partition: &SourcePartition, held: Option<Held<'_>>, bytes: usize) {
        let now = Instant::now();
        let Some(held) = held else {
            if self.held_since.remove(partition).is_some() {
                self.health.released(partition, now);
            }
            return;
        };
        let since = *self.held_since.entry(partition.clone()).or_insert(now);
        let remedy = match held.reason {
            HoldReason::Poison => Some(dead_letter_remedy(&partition.at(held.offset))),
            HoldReason::OffsetLost => Some("ORCH_ON_OFFSET_LOST=EARLIEST".to_owned()),
            HoldReason::DlqMissing => Some("create the topic of ORCH_DLQ_TOPIC".to_owned()),
            HoldReason::Database => Some("ORCH_DB_DEGRADE_DONT_BLOCK=true".to_owned()),
            _ => None,
        };
        let view = HeldView {
            reason: held.reason.as_str(),
            offset: held.offset,
            since,
            next_try: held.due,
            attempts: held.attempts,
            error: held.error.to_owned(),
            remedy,
            bytes: bytes as u64,
        };
        self.health.held(partition, view, now);
    }

    fn in_flight(&mut self, bytes: usize) {
        self.set_in_flight(bytes);
    }

    fn hung(&mut self, hung: &[Hung]) {
        self.health.hung(hung.len());
        // Told from time to time, with the rest of what changes slowly.
        let now = Instant::now();
        let rounds = self.session.status().rounds();
        if rounds != self.rounds {
            self.rounds = rounds;
            self.health.polled(now);
        }
        for (partition, offsets) in self.session.lags() {
            self.health.to_the_end(&partition, offsets);
        }
        let status = self.session.status();
        let happened = status.happened();
        for (kind, times) in REBALANCES.iter().zip(happened.rebalances) {
            self.metrics.rebalanced(kind, times);
        }
        self.metrics.rate_limited(happened.rate_limited);
        if status.broker_reachable() {
            self.pipeline.broker_reachable(now);
        } else {
            let error = status
                .problem()
                .unwrap_or_else(|| "no broker answers".to_owned());
            self.pipeline.broker_unreachable(error, now);
        }
    }
}

/// One transactor's.
#[derive(Debug)]
pub(crate) struct TransactionObserver {
    metrics: Arc<PipelineMetrics>,
}

impl TransactionObserver {
    pub(crate) fn new(metrics: Arc<PipelineMetrics>) -> Self {
        Self { metrics }
    }
}

impl TransactorObserver for TransactionObserver {
    fn committed(&mut self, took: Duration) {
        self.metrics.transactions_committed.increment(1);
        self.metrics.commit_seconds.record(took.as_secs_f64());
    }

    fn aborted(&mut self, reason: &'static str) {
        self.metrics.transaction_aborted(reason);
    }

    fn replaced(&mut self, reason: &'static str) {
        // A worker's first producer takes nobody's place.
        if reason != "start" {
            self.metrics.producer_replaced(reason);
        }
    }

    fn stripped(&mut self, _partition: &SourcePartition, records: usize) {
        self.metrics.records_stripped.increment(records as u64);
    }
}
