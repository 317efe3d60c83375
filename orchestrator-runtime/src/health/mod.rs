//! Health: workers report into it once a batch, `/livez`, `/readyz` and `/health` read it. It keeps the gauges that
//! say the same (lag, held partitions, hung transforms), so that metrics and health never disagree.
//! It decides nothing about records, and reads no clock: every `now` is a parameter.

mod ledger;
mod report;
mod verdict;
mod view;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::Gauge;
use orchestrator_core::SourcePartition;

use crate::metrics::PipelineMetrics;
use crate::tracker::LedgerHealth;
use ledger::Ledger;
pub use report::health;
pub use verdict::{Check, Verdict, livez, readyz};
pub use view::{
    Broker, HeldView, LedgerState, PartitionView, Snapshot, WorkerState, WorkerView,
    dead_letter_remedy,
};

/// The health of one pipeline. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    metrics: Arc<PipelineMetrics>,
    stall_timeout: Duration,
    /// What the polls' milliseconds count from.
    epoch: Instant,
    workers: Vec<Worker>,
    broker: Mutex<Broker>,
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Worker {
    /// Milliseconds after the epoch, plus one; 0 is never. Not behind the lock, so that polling never waits.
    last_poll: AtomicU64,
    status: Mutex<Status>,
}

#[derive(Debug)]
struct Status {
    state: WorkerState,
    hung: usize,
    partitions: BTreeMap<SourcePartition, Tracked>,
}

impl Default for Status {
    fn default() -> Self {
        let WorkerView { state, hung, .. } = WorkerView::default();
        Self {
            state,
            hung,
            partitions: BTreeMap::new(),
        }
    }
}

#[derive(Debug)]
struct Tracked {
    view: PartitionView,
    lag: Gauge,
}

impl Health {
    /// The health of a pipeline of `workers` workers; `stall_timeout` is `ORCH_STALL_TIMEOUT_MS`.
    pub fn new(
        metrics: Arc<PipelineMetrics>,
        workers: usize,
        stall_timeout: Duration,
        now: Instant,
    ) -> Self {
        Self(Arc::new(Shared {
            metrics,
            stall_timeout,
            epoch: now,
            workers: (0..workers).map(|_| Worker::default()).collect(),
            broker: Mutex::default(),
            ledger: Mutex::default(),
        }))
    }

    /// Where worker `number`, from 0, reports.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn worker(&self, number: usize) -> WorkerHealth {
        assert!(number < self.0.workers.len(), "no worker {number}");
        WorkerHealth {
            shared: Arc::clone(&self.0),
            number,
        }
    }

    /// A broker answered. Cheap enough for each batch.
    pub fn broker_reachable(&self, now: Instant) {
        let mut broker = lock(&self.0.broker);
        if !matches!(*broker, Broker::Reachable { .. }) {
            *broker = Broker::Reachable { since: now };
        }
    }

    /// No broker answers. Nothing counts as stalled until [`broker_reachable`](Self::broker_reachable): a restart
    /// would not help.
    pub fn broker_unreachable(&self, error: impl Into<String>, now: Instant) {
        let mut broker = lock(&self.0.broker);
        let since = match *broker {
            Broker::Unreachable { since, .. } => since,
            _ => now,
        };
        let error = error.into();
        *broker = Broker::Unreachable { since, error };
    }

    /// The ledger's state changed.
    pub fn ledger(&self, state: LedgerState) {
        *lock(&self.0.ledger) = Ledger::Told(state);
    }

    /// From now on the ledger's state is asked of `health`.
    pub fn watch_ledger(&self, health: Arc<LedgerHealth>) {
        *lock(&self.0.ledger) = Ledger::Watched(health);
    }

    /// Everything as it is now. Each worker is consistent in itself, and no lock is held for longer than a copy.
    pub fn snapshot(&self) -> Snapshot {
        let Shared {
            metrics,
            stall_timeout,
            epoch,
            workers,
            broker,
            ledger,
        } = &*self.0;
        let (ledger, ledger_counters) = lock(ledger).view();
        Snapshot {
            pipeline: metrics.pipeline().to_owned(),
            workers: workers.iter().map(|it| it.view(*epoch)).collect(),
            broker: lock(broker).clone(),
            ledger,
            ledger_counters,
            stall_timeout: *stall_timeout,
        }
    }
}

impl Worker {
    fn view(&self, epoch: Instant) -> WorkerView {
        let status = lock(&self.status);
        let last_poll = self.last_poll.load(Ordering::Relaxed).checked_sub(1);
        WorkerView {
            state: status.state.clone(),
            hung: status.hung,
            last_poll: last_poll.map(|ms| epoch + Duration::from_millis(ms)),
            partitions: status
                .partitions
                .iter()
                .map(|(partition, tracked)| (partition.clone(), tracked.view.clone()))
                .collect(),
        }
    }
}

/// Where one worker and its threads report: once a batch, never once a record. Clones report to the same place.
///
/// Reports about a partition that is not assigned are dropped: they are late.
#[derive(Clone, Debug)]
pub struct WorkerHealth {
    shared: Arc<Shared>,
    number: usize,
}

impl WorkerHealth {
    /// The worker's number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// It now stands elsewhere. One that has ended, or starts anew, owns nothing any more.
    pub fn state(&self, state: WorkerState) {
        let mut status = self.status();
        if state.has_ended() || matches!(state, WorkerState::Starting { .. }) {
            for (_, tracked) in std::mem::take(&mut status.partitions) {
                self.forget(tracked);
            }
        }
        status.state = state;
    }

    /// It was asked to end: if it runs, it takes nothing new from now on.
    pub fn draining(&self) {
        let mut status = self.status();
        if status.state == WorkerState::Running {
            status.state = WorkerState::Draining;
        }
    }

    /// The poll thread came round. Without a lock: for each poll, however often.
    pub fn polled(&self, now: Instant) {
        let after = now.saturating_duration_since(self.shared.epoch).as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX - 1) + 1;
        self.shared.workers[self.number]
            .last_poll
            .store(after, Ordering::Relaxed);
    }

    /// It owns `partition` from now on, from offset `next`.
    pub fn assigned(&self, partition: &SourcePartition, next: i64) {
        let tracked = Tracked {
            view: PartitionView::starting_at(next),
            lag: self.shared.metrics.consumer_lag(partition),
        };
        let before = self.status().partitions.insert(partition.clone(), tracked);
        if let Some(before) = before {
            self.forget(before);
        }
    }

    /// It does not own `partition` any more.
    pub fn revoked(&self, partition: &SourcePartition) {
        let tracked = self.status().partitions.remove(partition);
        if let Some(tracked) = tracked {
            self.forget(tracked);
        }
    }

    /// Records below `next` were taken from the source.
    pub fn taken(&self, partition: &SourcePartition, next: i64, now: Instant) {
        self.with(partition, |it| it.view.take(next, now));
    }

    /// Offset `next` was committed: progress.
    pub fn committed(&self, partition: &SourcePartition, next: i64, now: Instant) {
        self.with(partition, |it| it.view.commit(next, now));
    }

    /// What was taken is thrown away, and reading starts again at the committed offset `next`.
    pub fn rewound(&self, partition: &SourcePartition, next: i64, now: Instant) {
        self.with(partition, |it| it.view.rewind(next, now));
    }

    /// How many offsets lie between what was taken and the end. The lag is that and what is not committed of what was
    /// taken; commit markers behind the last record are none.
    pub fn to_the_end(&self, partition: &SourcePartition, offsets: i64) {
        self.with(partition, |it| {
            let lag = offsets + (it.view.taken - it.view.committed).max(0);
            it.view.lag = Some(lag);
            it.lag.set(lag as f64);
        });
    }

    /// `partition` is held; also called again when the next try, the attempts or the bytes change.
    pub fn held(&self, partition: &SourcePartition, held: HeldView, now: Instant) {
        self.with(partition, |it| self.hold(it, Some(held), now));
    }

    /// `partition` flows again.
    pub fn released(&self, partition: &SourcePartition, now: Instant) {
        self.with(partition, |it| self.hold(it, None, now));
    }

    /// How many synchronous transforms are past their deadline and still hold a thread.
    pub fn hung(&self, transforms: usize) {
        let mut status = self.status();
        let gauge = &self.shared.metrics.transform_hung;
        gauge.increment(transforms as f64 - status.hung as f64);
        status.hung = transforms;
    }

    fn hold(&self, tracked: &mut Tracked, held: Option<HeldView>, now: Instant) {
        self.count_held(tracked.view.held.as_ref(), -1.0);
        self.count_held(held.as_ref(), 1.0);
        tracked.view.set_held(held, now);
    }

    fn count_held(&self, held: Option<&HeldView>, sign: f64) {
        if let Some(held) = held {
            let metrics = &self.shared.metrics;
            metrics.held_partitions(held.reason).increment(sign);
            metrics.held_bytes.increment(sign * held.bytes as f64);
        }
    }

    /// Whoever owns it next reports its lag: ours is 0 from now on, so that sums over processes stay right.
    fn forget(&self, tracked: Tracked) {
        self.count_held(tracked.view.held.as_ref(), -1.0);
        tracked.lag.set(0.0);
    }

    fn with(&self, partition: &SourcePartition, report: impl FnOnce(&mut Tracked)) {
        if let Some(tracked) = self.status().partitions.get_mut(partition) {
            report(tracked);
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        lock(&self.shared.workers[self.number].status)
    }
}

/// Health is told about panics, and must not fail over one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
