//! The worker: takes records from a session, has them transformed, decides, and hands units of work to a committer.
//! While one unit commits the next is gathered and transformed. Straight-line over the two ports: it knows neither
//! Kafka nor a database, and never sleeps on behalf of a record; what must wait waits in its lane.

mod judge;
mod pending;
pub mod settings;
pub mod stage;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_core::lane::{Lane, Stop};
use orchestrator_core::ports::{
    Committer, Fate, Intake, Report, Session, SessionEvent, SessionFailure, Slice, SliceFate,
    TopicFacts, UnitSlice,
};
use orchestrator_core::{
    FailureClass, FailureTracker, HoldReason, OffsetRange, Passed, Record, SourcePartition,
    TransformError, Transformer,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use judge::Judge;
use pending::Pending;
use settings::{Counts, WorkerObserver, WorkerSettings};
use stage::{JobDone, Stage};

/// How often the state of held partitions is told, and hanging transforms are looked for.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// A lane that waits for no longer than this is not paused.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// The back-off of a lane whose offsets could not be committed or whose failures could not be recorded.
const STOP_FOR: Duration = Duration::from_secs(1);

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
    observer: O,
    settings: WorkerSettings,
    judge: Judge,
    lanes: BTreeMap<SourcePartition, Lane>,
    pending: Pending,
    /// When the unit under way was submitted, if one is.
    under_way: Option<Instant>,
    under_way_bytes: usize,
    last_submit: Option<Instant>,
    told: Option<Instant>,
    /// Whether as much waits behind held records as may be kept.
    crowded: bool,
    counts: Counts,
    failed: Option<SessionFailure>,
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
            observer,
            judge: Judge::new(settings.seed),
            settings,
            lanes: BTreeMap::new(),
            pending: Pending::default(),
            under_way: None,
            under_way_bytes: 0,
            last_submit: None,
            told: None,
            crowded: false,
            counts: Counts::default(),
            failed: None,
        }
    }

    /// Runs until `drain` is cancelled, a poison record stops it, or a port fails. What was committed stays; what
    /// was held is left at once.
    pub async fn run(mut self, drain: CancellationToken) -> WorkerReport {
        let mut deadline = None;
        let end = loop {
            let draining = drain.is_cancelled() || self.judge.stop.is_some();
            if draining && deadline.is_none() {
                deadline = Some(Instant::now() + self.settings.drain_timeout);
            }
            self.tell();
            if !draining {
                self.start_due();
            }
            self.collect_ready().await;
            self.submit();
            if let Some(failure) = self.failed.take() {
                break End::Failed(failure);
            }
            if draining && self.is_idle() {
                break self
                    .judge
                    .stop
                    .take()
                    .map_or(End::Drained, End::StoppedOnPoison);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break End::DrainTimedOut;
            }
            let wake = self.wake_at(deadline);
            let want_records = !draining && self.has_room();
            let under_way = self.under_way.is_some();
            tokio::select! {
                biased;
                () = drain.cancelled(), if !draining => {}
                report = self.committer.report(), if under_way => self.reported(report).await,
                done = self.stage.done(), if self.stage.is_busy() => self.transformed(done).await,
                intake = self.session.next(want_records) => self.taken(intake, draining).await,
                () = tokio::time::sleep_until(wake) => {}
            }
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
        // A worker that failed is started anew, and the ledger's background goes on meanwhile.
        if let Some(deadline) = deadline
            && tokio::time::timeout_at(deadline, self.tracker.flush())
                .await
                .is_err()
        {
            tracing::warn!("the ledger was not flushed in time (ORCH_DRAIN_TIMEOUT_MS)");
        }
        // The consumer leaves before the producer ends, so that a revoke is still answered.
        self.session.close().await;
        self.committer.close().await;
        report
    }

    /// Whether nothing is under way that could still be committed.
    fn is_idle(&self) -> bool {
        self.under_way.is_none()
            && self.pending.is_empty()
            && !self.lanes.values().any(Lane::transforming)
    }

    fn wake_at(&self, deadline: Option<Instant>) -> Instant {
        let mut wake = Instant::now() + TELL_EVERY;
        for due in self.lanes.values().filter_map(Lane::next_due) {
            wake = wake.min(Instant::from_std(due));
        }
        if let Some(last) = self.last_submit
            && self.under_way.is_none()
            && !self.pending.is_empty()
        {
            wake = wake.min(last + self.settings.commit_interval);
        }
        deadline.map_or(wake, |deadline| wake.min(deadline))
    }

    /// Whether more records fit: beside what waits behind held records, two units' worth is kept at the most.
    fn has_room(&self) -> bool {
        let flowing: usize = self
            .lanes
            .values()
            .filter(|lane| lane.held().is_none())
            .map(Lane::bytes)
            .sum();
        !self.crowded
            && self.pending.bytes + flowing < 2 * self.settings.max_bytes
            && self.pending.records < self.settings.max_records
    }

    /// Takes in what the session gives.
    async fn taken(&mut self, intake: Intake, draining: bool) {
        let mut starts = Vec::new();
        let mut gone = Vec::new();
        for event in intake.events {
            match event {
                SessionEvent::Assigned {
                    partition,
                    epoch,
                    position,
                    remember,
                } => {
                    self.pending.remove(&partition);
                    self.observer.assigned(&partition, position);
                    let lane = Lane::new(partition.clone(), epoch, position);
                    self.lanes.insert(partition.clone(), lane);
                    if remember {
                        self.pending.push(UnitSlice {
                            partition: partition.clone(),
                            epoch,
                            from: position,
                            next: position,
                            done: Vec::new(),
                        });
                    }
                    starts.push(partition.at(position));
                }
                SessionEvent::Revoked { partition } => {
                    self.pending.remove(&partition);
                    self.lanes.remove(&partition);
                    self.observer.revoked(&partition);
                    gone.push(partition);
                }
                SessionEvent::OffsetLost {
                    partition,
                    epoch,
                    committed,
                    low,
                    high,
                } => {
                    self.pending.remove(&partition);
                    self.offset_lost(partition, epoch, committed, low, high);
                }
                SessionEvent::CaughtUp { partition } => self.observer.caught_up(&partition),
                SessionEvent::Failed(failure) => self.failed = Some(failure),
            }
        }
        if !gone.is_empty() {
            self.tracker.revoked(&gone).await;
        }
        if !starts.is_empty()
            && let Err(error) = self.tracker.assigned(&starts).await
        {
            tracing::warn!(%error, "the ledger was not told of new partitions");
        }
        if draining {
            return;
        }
        for slice in intake.slices {
            self.take_in(slice).await;
        }
    }

    fn offset_lost(
        &mut self,
        partition: SourcePartition,
        epoch: orchestrator_core::ports::Epoch,
        committed: i64,
        low: i64,
        high: i64,
    ) {
        let error = format!(
            "the committed offset {committed} of {partition} does not exist (the source has {low}..{high}): set \
             ORCH_ON_OFFSET_LOST=EARLIEST to go on from {low}, or reset the group's offset"
        );
        tracing::error!("{error}");
        self.observer.assigned(&partition, committed);
        let mut lane = Lane::new(partition.clone(), epoch, committed);
        // The session reads nothing of it until it is assigned anew.
        lane.set_paused(true);
        lane.stop(Stop {
            reason: HoldReason::OffsetLost,
            error,
            in_a_row: 1,
            due: None,
        });
        self.lanes.insert(partition, lane);
    }

    /// Gives records to the transformer, in chunks.
    async fn take_in(&mut self, slice: Slice) {
        let Some(lane) = self.lanes.get_mut(&slice.partition) else {
            return;
        };
        if lane.epoch() != slice.epoch || slice.from != lane.taken_in() {
            return;
        }
        self.observer
            .taken(&slice.partition, slice.next, slice.records.len());
        let received = if self.tracker.notes_received() {
            self.tracker
                .received(&slice.records, judge::unix_ms())
                .await
        } else {
            Ok(())
        };
        let chunk = self.stage.chunk_records();
        let mut rest = slice.records.into_iter();
        let mut from = slice.from;
        loop {
            let records: Vec<_> = rest.by_ref().take(chunk).collect();
            let next = rest.as_slice().first().map_or(slice.next, Record::offset);
            if !lane.take_in(from, next, &records) {
                return;
            }
            match &received {
                Ok(()) => {
                    self.stage
                        .start(slice.partition.clone(), slice.epoch, from, records, None);
                }
                Err(error) => {
                    let error = TransformError::infrastructure(error.message.clone());
                    let limits = judge::Limits::default();
                    let tried: Vec<_> = records
                        .iter()
                        .map(|record| {
                            self.judge.judge_failure(
                                &self.settings,
                                &limits,
                                false,
                                record,
                                &error,
                                None,
                            )
                        })
                        .collect();
                    lane.transformed(from, tried);
                }
            }
            from = next;
            if rest.len() == 0 {
                return;
            }
        }
    }

    /// Tries again what is due.
    fn start_due(&mut self) {
        let now = Instant::now().into_std();
        let mut due = Vec::new();
        for (partition, lane) in &mut self.lanes {
            if let Some(stop) = lane.end_stop(now) {
                tracing::info!(%partition, reason = stop.reason.as_str(), "trying a stopped partition again");
            }
            due.extend(
                lane.start_due(now)
                    .into_iter()
                    .map(|waiting| (lane.epoch(), waiting)),
            );
        }
        for (epoch, waiting) in due {
            self.observer.retried();
            let record = waiting.record.clone();
            let (partition, offset) = (record.partition().clone(), record.offset());
            self.stage
                .start(partition, epoch, offset, vec![record], Some(waiting));
        }
    }

    /// Takes back what the transformer has done, all of it that is there.
    async fn transformed(&mut self, done: JobDone) {
        self.judge_job(done).await;
        while let Some(done) = self.stage.try_done() {
            self.judge_job(done).await;
        }
    }

    async fn judge_job(&mut self, done: JobDone) {
        self.observer.transformed(done.took);
        if self
            .lanes
            .get(&done.partition)
            .is_none_or(|lane| lane.epoch() != done.epoch)
        {
            return;
        }
        let limits = self
            .judge
            .limits(&mut self.committer, &self.settings, &done.results)
            .await;
        let (mut failing, mut transient) = (0, 0);
        for error in done
            .results
            .iter()
            .filter_map(|(_, result)| result.as_ref().err())
        {
            failing += 1;
            transient += usize::from(error.class() == FailureClass::Transient);
            self.observer.failed(error.class());
        }
        // Only a transient failure can meet the brake, and looking at all lanes has its price.
        let others = done.results.len() - failing;
        let brake = transient > 0
            && judge::brake(
                &self.settings.policy,
                self.lanes.values(),
                transient,
                others,
            );
        let Some(lane) = self.lanes.get_mut(&done.partition) else {
            return;
        };
        let judge = &mut self.judge;
        let settings = &self.settings;
        let again = done.again.as_ref();
        let tried = done
            .results
            .into_iter()
            .map(|result| judge.judge(settings, &limits, brake, result, again));
        match again {
            None => lane.transformed(done.from, tried),
            Some(_) => {
                for tried in tried {
                    lane.retried(done.from, tried);
                }
            }
        }
    }

    /// Moves what is ready from the lanes to the pending unit, and writes its failures to the ledger: before the
    /// commit that passes them, and while the unit before is being committed.
    async fn collect_ready(&mut self) {
        let mut full = false;
        let mut failures = Vec::new();
        for lane in self.lanes.values_mut() {
            loop {
                let records = self
                    .settings
                    .max_records
                    .saturating_sub(self.pending.records);
                let bytes = self.settings.max_bytes.saturating_sub(self.pending.bytes);
                if records == 0 || bytes == 0 {
                    full = true;
                    break;
                }
                let Some(mut slice) = lane.take_ready(records, bytes) else {
                    break;
                };
                for done in &mut slice.done {
                    if let Fate::Failed(failed) = &mut done.fate
                        && !std::mem::replace(&mut failed.recorded, true)
                    {
                        failures.push(failed.failure.clone());
                    }
                }
                self.pending.push(slice);
            }
            if full {
                break;
            }
        }
        if !failures.is_empty()
            && let Err(error) = self.tracker.failed(&failures).await
        {
            let unrecorded: BTreeSet<_> = failures
                .iter()
                .map(|failure| failure.record.partition().clone())
                .collect();
            self.stop_lanes(&unrecorded, HoldReason::Database, &error.message);
        }
        self.balance();
    }

    /// Takes back what of these partitions is pending, and stops them for a while.
    fn stop_lanes(
        &mut self,
        partitions: &BTreeSet<SourcePartition>,
        reason: HoldReason,
        error: &str,
    ) {
        for partition in partitions {
            let Some(lane) = self.lanes.get_mut(partition) else {
                continue;
            };
            for mut slice in self.pending.remove(partition).into_iter().rev() {
                for done in &mut slice.done {
                    if let Fate::Failed(failed) = &mut done.fate
                        && reason == HoldReason::Database
                    {
                        failed.recorded = false;
                    }
                }
                lane.put_back(slice);
            }
            let in_a_row = lane.stopped().map_or(0, |stop| stop.in_a_row) + 1;
            tracing::warn!(%partition, reason = reason.as_str(), error, "a partition is stopped");
            lane.stop(Stop {
                reason,
                error: error.to_owned(),
                in_a_row,
                due: Some((Instant::now() + STOP_FOR).into_std()),
            });
        }
    }

    /// Pauses lanes that nothing more is to be read of, and reads on where that has ended. A pause throws away what
    /// was fetched ahead, so a lane that waits for a moment only is let be; if such lanes become too large together,
    /// nothing is read for that moment.
    fn balance(&mut self) {
        let soon = (Instant::now() + SHORT_WAIT).into_std();
        let (mut long, mut short) = (0, 0);
        for lane in self.lanes.values() {
            match lane.held() {
                None => {}
                Some(held) if lane.paused() || held.due.is_none_or(|due| due > soon) => {
                    long += lane.bytes();
                }
                Some(_) => short += lane.bytes(),
            }
        }
        let max = self.settings.held_max_bytes;
        if long > max / 2 {
            // Read again later: there is no telling for how long it would be kept.
            let waits_long = |lane: &&mut Lane| lane.paused() && lane.held().is_some();
            for lane in self.lanes.values_mut().filter(waits_long) {
                long -= lane.bytes();
                lane.shed();
                long += lane.bytes();
            }
        }
        self.crowded = long + short > max;
        for (partition, lane) in &mut self.lanes {
            if lane
                .stopped()
                .is_some_and(|stop| stop.reason == HoldReason::OffsetLost)
            {
                continue;
            }
            // Lanes that wait for long leave most of the room to those that do not.
            let over = match lane.held() {
                None => false,
                Some(_) if lane.paused() => long > max / 8,
                Some(held) => long > max / 4 && held.due.is_none_or(|due| due > soon),
            };
            let pause = !lane.reads_on() || over;
            if pause && !lane.paused() {
                self.session.pause(partition, lane.epoch());
                // It may wait for long.
                lane.compact();
            } else if !pause && lane.paused() {
                self.session
                    .resume(partition, lane.epoch(), lane.taken_in());
            }
            lane.set_paused(pause);
        }
    }

    /// Hands the pending unit over, unless one is under way or the last one is too recent.
    fn submit(&mut self) {
        let now = Instant::now();
        let too_soon = self
            .last_submit
            .is_some_and(|last| now < last + self.settings.commit_interval);
        if self.under_way.is_some() || self.pending.is_empty() || too_soon {
            return;
        }
        self.observer.submitted(self.pending.records);
        self.under_way_bytes = self.pending.bytes;
        self.committer.submit(self.pending.take());
        self.under_way = Some(now);
        self.last_submit = Some(now);
    }

    /// Takes note of what became of the unit under way.
    async fn reported(&mut self, report: Report) {
        let submitted = self.under_way.take();
        self.under_way_bytes = 0;
        let mut passed = Passed::default();
        for (slice, fate) in report.unit.slices.into_iter().zip(report.fates).rev() {
            self.slice_reported(slice, fate, &mut passed).await;
        }
        if !passed.ranges.is_empty() {
            passed.ranges.reverse();
            passed.failures.sort();
            if let Some(submitted) = submitted {
                self.observer.unit_committed(submitted.elapsed());
            }
            if let Err(error) = self.tracker.committed(&passed).await {
                tracing::warn!(%error, "the ledger was not told of a commit");
            }
        }
        if let Some(failure) = report.ended {
            self.failed = Some(failure);
        }
    }

    /// Slices are reported last first, so that what is put back stands in order.
    async fn slice_reported(&mut self, slice: UnitSlice, fate: SliceFate, passed: &mut Passed) {
        if fate == SliceFate::Committed {
            self.slice_committed(slice, passed);
            return;
        }
        let partition = slice.partition.clone();
        let Some(lane) = self
            .lanes
            .get_mut(&partition)
            .filter(|lane| lane.epoch() == slice.epoch)
        else {
            return;
        };
        // What is pending of it follows what was not committed, and waits with it.
        for later in self.pending.remove(&partition).into_iter().rev() {
            lane.put_back(later);
        }
        match fate {
            SliceFate::Committed => {}
            SliceFate::Stripped => lane.put_back(slice),
            SliceFate::Rewind { to } => {
                tracing::warn!(%partition, to, "reading again from the broker's committed offset");
                lane.rewind(to);
                lane.set_paused(false);
                self.session.resume(&partition, lane.epoch(), to);
                self.observer.rewound(&partition, to);
            }
            SliceFate::Stuck { error } => {
                lane.put_back(slice);
                self.stop_lanes(
                    &BTreeSet::from([partition]),
                    HoldReason::CommitRefused,
                    &error,
                );
            }
            SliceFate::Refused {
                error,
                topic,
                permanent,
            } => {
                self.refused(slice, error, &topic, permanent).await;
            }
        }
    }

    fn slice_committed(&mut self, slice: UnitSlice, passed: &mut Passed) {
        let mut counts = Counts::default();
        for done in &slice.done {
            match &done.fate {
                Fate::Outputs(outputs) => {
                    counts.ok += 1;
                    counts.outputs += outputs.len() as u64;
                }
                Fate::Failed(failed) => {
                    counts.failed += 1;
                    counts.dead_letters += u64::from(failed.dead_letter.is_some());
                    passed.failures.push(done.record.position());
                }
            }
        }
        self.counts += counts;
        self.observer
            .committed(&slice.partition, slice.next, &counts);
        if let Some(lane) = self.lanes.get_mut(&slice.partition) {
            lane.widen();
        }
        passed.ranges.push(OffsetRange {
            partition: slice.partition,
            from: slice.from,
            next: slice.next,
        });
    }

    /// The broker refused an output though it was checked: narrow down to the one record, which is then to blame.
    async fn refused(
        &mut self,
        slice: UnitSlice,
        error: String,
        topic: &orchestrator_core::Topic,
        permanent: bool,
    ) {
        self.judge.topics.forget(topic);
        let answer = self.judge.topics.look_up(&mut self.committer, topic).await;
        let topic_is_well = matches!(answer, Ok(TopicFacts::Known { .. }));
        let configured = self.settings.target_topic.as_ref() == Some(topic);
        let count = slice.done.len();
        let partition = slice.partition.clone();
        let only = slice.done.first().map(|done| done.record.clone());
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        lane.put_back(slice);
        lane.narrow(count);
        let Some(record) = only.filter(|_| count == 1) else {
            return;
        };
        let blame = permanent && (topic_is_well || !configured);
        let text = format!("the broker refuses an output to {topic}: {error}");
        let error = if blame {
            TransformError::permanent(text)
        } else {
            TransformError::infrastructure(text)
        };
        let error = error.at_stage(orchestrator_core::Stage::Output);
        self.observer.failed(error.class());
        let results = [(record.clone(), Err(error))];
        let limits = self
            .judge
            .limits(&mut self.committer, &self.settings, &results)
            .await;
        let [(_, Err(error))] = &results else { return };
        let tried = self
            .judge
            .judge_failure(&self.settings, &limits, false, &record, error, None);
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.replace_first(tried);
        }
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
        self.observer
            .in_flight(lanes + self.pending.bytes + self.under_way_bytes);
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
