//! The worker: takes records from a session, has them transformed, decides, and hands units of work to a committer.
//! While one unit commits the next is gathered and transformed. Straight-line over the two ports: it knows neither
//! Kafka nor a database, and never sleeps on behalf of a record; what must wait waits in its lane.

mod intake;
mod judge;
mod noting;
mod outcomes;
mod pending;
mod quarantine;
mod recording;
mod room;
pub mod settings;
pub mod stage;
mod threads;
mod topics;
mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_core::lane::Lane;
use orchestrator_core::ports::{Committer, Session, SessionFailure};
use orchestrator_core::{FailureTracker, SourcePartition, Transformer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use judge::Judge;
use noting::Noting;
use pending::{Pending, UnderWay};
use quarantine::Searches;
use recording::Recording;
use settings::{Counts, WorkerObserver, WorkerSettings};
use stage::Stage;

/// How often the state of held partitions is told, and hanging transforms are looked for.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to, and everything that was not held is committed.
    Drained,
    /// It was asked to, and `ORCH_DRAIN_TIMEOUT_MS` passed before everything was committed.
    DrainTimedOut,
    /// A poison record under `ORCH_ATOMIC_ON_POISON=STOP`.
    StoppedOnPoison(String),
    /// Its session or committer cannot go on.
    Failed(SessionFailure),
}

/// What a worker has done, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerReport {
    /// How it ended.
    pub end: End,
    /// What it committed.
    pub counts: Counts,
    /// Partitions that were held when it ended.
    pub held: usize,
}

/// See the module.
pub struct Worker<S, C, T, O = ()> {
    session: S,
    committer: C,
    stage: Stage<T>,
    tracker: Arc<dyn FailureTracker>,
    noting: Noting,
    recording: Recording,
    observer: O,
    settings: WorkerSettings,
    judge: Judge,
    lanes: BTreeMap<SourcePartition, Lane>,
    pending: Pending,
    searches: Searches,
    under_way: Option<UnderWay>,
    last_submit: Option<Instant>,
    told: Option<Instant>,
    /// Whether as much waits behind held records as may be kept.
    crowded: bool,
    /// The bytes of partitions that flow, and of them those that wait for a mark.
    flowing: usize,
    withheld: usize,
    counts: Counts,
    failed: Option<SessionFailure>,
    /// When a drain that has begun must be over.
    deadline: Option<Instant>,
}

impl<S, C, T, O> Worker<S, C, T, O>
where
    S: Session,
    C: Committer,
    T: Transformer,
    O: WorkerObserver,
{
    /// A worker over these ports.
    pub fn new(
        session: S,
        committer: C,
        transformer: Arc<T>,
        tracker: Arc<dyn FailureTracker>,
        settings: WorkerSettings,
        observer: O,
    ) -> Self {
        Self {
            session,
            committer,
            stage: Stage::new(transformer, settings.stage.clone()),
            tracker,
            noting: Noting::default(),
            recording: Recording::default(),
            observer,
            judge: Judge::new(settings.seed),
            searches: Searches::new(settings.quarantine),
            settings,
            lanes: BTreeMap::new(),
            pending: Pending::default(),
            under_way: None,
            last_submit: None,
            told: None,
            crowded: false,
            flowing: 0,
            withheld: 0,
            counts: Counts::default(),
            failed: None,
            deadline: None,
        }
    }

    /// Runs until `drain` is cancelled, a poison record stops it, or a port fails. What was committed stays; what
    /// was held is left at once.
    pub async fn run(mut self, drain: CancellationToken) -> WorkerReport {
        // Cancelled with `drain`, and by a record that stops the run.
        let ending = drain.child_token();
        let timeout = self.settings.drain_timeout;
        let timed_out = async {
            ending.cancelled().await;
            tokio::time::sleep(timeout).await;
        };
        // Whatever a turn waits for, be it a database or a broker that does not answer, a drain waits no longer.
        let end = tokio::select! {
            biased;
            end = self.turns(&ending) => end,
            () = timed_out => End::DrainTimedOut,
        };
        let end = match (end, self.judge.stop.take()) {
            (End::Drained | End::DrainTimedOut, Some(poison)) => End::StoppedOnPoison(poison),
            (end, _) => end,
        };
        let report = WorkerReport {
            end,
            counts: self.counts,
            held: self
                .lanes
                .values()
                .filter(|lane| lane.held().is_some())
                .count(),
        };
        match self.deadline {
            // A worker that failed is started anew, and the ledger's background goes on meanwhile.
            None => {
                self.recording.heard().await;
                // Its partitions may be anybody's by the time it comes back.
                let partitions: Vec<_> = self.lanes.keys().cloned().collect();
                self.tracker.revoked(&partitions).await;
            }
            Some(deadline) => {
                let told = async {
                    self.recording.heard().await;
                    self.tracker.flush().await;
                };
                if tokio::time::timeout_at(deadline, told).await.is_err() {
                    tracing::warn!("the ledger was not flushed in time (ORCH_DRAIN_TIMEOUT_MS)");
                }
            }
        }
        // The consumer leaves before the producer ends, so that a revoke is still answered.
        self.session.close().await;
        self.committer.close().await;
        report
    }

    /// Turn after turn: what is ready is handed over, then whatever comes next is waited for.
    async fn turns(&mut self, ending: &CancellationToken) -> End {
        loop {
            if self.judge.stop.is_some() {
                ending.cancel();
            }
            let draining = ending.is_cancelled();
            if draining && self.deadline.is_none() {
                self.deadline = Some(Instant::now() + self.settings.drain_timeout);
            }
            self.tell();
            if !draining {
                self.start_due();
                self.let_through();
            }
            self.start_noting(draining);
            self.collect_ready();
            self.submit();
            if let Some(failure) = self.failed.take() {
                return End::Failed(failure);
            }
            if draining && self.is_idle() {
                if self.take_marks_back() {
                    continue;
                }
                return End::Drained;
            }
            let wake = self.wake_at(draining);
            let want_records = !draining && self.has_room();
            let under_way = self.under_way.is_some();
            tokio::select! {
                biased;
                () = ending.cancelled(), if !draining => {}
                report = self.committer.report(), if under_way => self.reported(report).await,
                taken = self.recording.done(), if self.recording.is_busy() => self.recorded(taken),
                noted = self.noting.done(), if self.noting.is_busy() => self.noted(noted, draining),
                done = self.stage.done(), if self.stage.is_busy() => self.transformed(done).await,
                intake = self.session.next(want_records) => self.taken(intake, draining).await,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Whether nothing is under way that could still be committed.
    fn is_idle(&self) -> bool {
        self.under_way.is_none()
            && self.pending.is_empty()
            && !self.lanes.values().any(Lane::transforming)
    }

    fn wake_at(&self, draining: bool) -> Instant {
        let mut wake = self.told.unwrap_or_else(Instant::now) + TELL_EVERY;
        // Nothing is tried again in a drain.
        if !draining {
            wake = self.noting.due().map_or(wake, |due| wake.min(due));
            let alone = self.searches.alone(&self.lanes);
            let waiting = self.lanes.iter();
            let waiting =
                waiting.filter(|(partition, _)| alone.is_none_or(|alone| alone == *partition));
            for due in waiting.filter_map(|(_, lane)| lane.next_due()) {
                wake = wake.min(Instant::from_std(due));
            }
        }
        if let Some(last) = self.last_submit
            && self.under_way.is_none()
            && !self.pending.ready.is_empty()
        {
            wake = wake.min(last + self.settings.commit_interval);
        }
        wake
    }

    /// Tells from time to time what is held and what hangs.
    fn tell(&mut self) {
        let now = Instant::now();
        if self.told.is_some_and(|told| now - told < TELL_EVERY) {
            return;
        }
        self.told = Some(now);
        for (partition, lane) in &self.lanes {
            self.observer.held(partition, lane.held(), lane.bytes());
        }
        let lanes: usize = self.lanes.values().map(Lane::bytes).sum();
        let under_way = self.under_way.as_ref().map_or(0, |unit| unit.size.bytes);
        self.observer
            .in_flight(lanes + self.pending.size().bytes + under_way);
        self.observer.hung(&self.stage.hung());
    }
}

impl<S, C, T, O> fmt::Debug for Worker<S, C, T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("lanes", &self.lanes.len())
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
