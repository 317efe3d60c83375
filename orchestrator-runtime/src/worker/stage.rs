//! Runs the transformer: in chunks, concurrently, each record's panic and deadline its own. Jobs are started by the
//! worker, which gets each one's results back whole. A synchronous transform that hangs can only be detected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use orchestrator_core::judge::{ends_the_process, listed_by_operator, panicked};
use orchestrator_core::lane::Waiting;
use orchestrator_core::ports::Epoch;
use orchestrator_core::{
    Attempt, Context, Execution, Outputs, Record, SourcePartition, SourcePosition, Stage as Step,
    TransformError, Transformer,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::threads::Threads;
use crate::telemetry::{in_batch, in_record, with_record};

/// The most records of one partition that one job transforms: small enough to spread over cores, large enough to
/// make the hand-over of a chunk cheap.
pub(crate) const CHUNK_RECORDS: usize = 512;

/// How a transformer is run.
#[derive(Clone, Debug)]
pub struct StageSettings {
    /// `ORCH_TRANSFORM_CONCURRENCY`.
    pub concurrency: usize,
    /// `ORCH_TRANSFORM_TIMEOUT_MS`.
    pub timeout: Duration,
    /// Records that are not given to the transformer at all.
    pub dead_letter_records: Arc<BTreeSet<SourcePosition>>,
    /// Those that have ended the process, and in how many lives in a row.
    pub end_the_process: Arc<BTreeMap<SourcePosition, u32>>,
}

impl StageSettings {
    fn refuse_nothing(&self) -> bool {
        self.dead_letter_records.is_empty() && self.end_the_process.is_empty()
    }
}

/// A result of the transformer.
pub(crate) type Transformed = Result<Outputs, TransformError>;

/// A job that has ended.
pub(crate) struct JobDone {
    pub(crate) id: u64,
    pub(crate) partition: SourcePartition,
    pub(crate) epoch: Epoch,
    /// The lane's life it belongs to.
    pub(crate) life: u32,
    /// Where the piece begins.
    pub(crate) from: i64,
    /// What was known of the record, if this was another try of one.
    pub(crate) again: Option<Waiting>,
    /// One a record; none if the job broke down, which is the runtime's failure and no record's.
    pub(crate) results: Option<Vec<(Record, Transformed)>>,
    /// How long the transformer took, waiting for its turn not counted for synchronous ones.
    pub(crate) took: Duration,
}

/// A synchronous transform that has been running for longer than it may.
#[derive(Clone, Debug)]
pub struct Hung {
    /// The record it works on.
    pub position: SourcePosition,
    /// Since when it has been seen to work on it.
    pub since: Instant,
}

/// Stands for the record a job works on while it waits for its turn.
const WAITS: i64 = i64::MIN;

struct Running {
    partition: SourcePartition,
    records: usize,
    at: Arc<AtomicI64>,
    /// The record it worked on when it was looked at, and since when that was the same.
    seen: (i64, Instant),
    hung: bool,
}

/// See the module.
pub(crate) struct Stage<T> {
    transformer: Arc<T>,
    settings: StageSettings,
    /// Of records of an asynchronous transformer.
    permits: Arc<Semaphore>,
    threads: Threads,
    /// How many jobs or, of an asynchronous transformer, records it works on at once.
    at_once: usize,
    sender: mpsc::UnboundedSender<JobDone>,
    receiver: mpsc::UnboundedReceiver<JobDone>,
    running: BTreeMap<u64, Running>,
    jobs: u64,
}

impl<T: Transformer> Stage<T> {
    pub(crate) fn new(transformer: Arc<T>, settings: StageSettings) -> Self {
        let at_once = match transformer.execution() {
            Execution::Async | Execution::Blocking => settings.concurrency,
            Execution::Cpu => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            transformer,
            settings,
            permits: Arc::new(Semaphore::new(at_once)),
            threads: Threads::new(at_once),
            at_once,
            sender,
            receiver,
            running: BTreeMap::new(),
            jobs: 0,
        }
    }

    /// The most records a job should have.
    pub(crate) fn chunk_records(&self) -> usize {
        match self.transformer.execution() {
            Execution::Blocking => 1,
            Execution::Cpu | Execution::Async => CHUNK_RECORDS,
        }
    }

    /// From now on this record is not given to the transformer, and fails as one that ends the process. Whether that is
    /// news.
    pub(crate) fn refuse(&mut self, position: SourcePosition, starts: u32) -> bool {
        let refused = Arc::make_mut(&mut self.settings.end_the_process);
        refused.insert(position, starts).is_none()
    }

    /// Whether any job runs.
    pub(crate) fn is_busy(&self) -> bool {
        !self.running.is_empty()
    }

    /// Whether more waits for the transformer than it can work on at once.
    pub(crate) fn has_queue(&self) -> bool {
        match self.transformer.execution() {
            Execution::Cpu | Execution::Blocking => self.running.len() > self.at_once,
            Execution::Async => {
                let records = self.running.values().map(|running| running.records);
                records.sum::<usize>() > self.at_once
            }
        }
    }

    /// Starts the transform of records of one partition, in one of its lane's lives.
    pub(crate) fn start(
        &mut self,
        partition: SourcePartition,
        (epoch, life): (Epoch, u32),
        from: i64,
        records: Vec<Record>,
        again: Option<Waiting>,
    ) {
        self.jobs += 1;
        let id = self.jobs;
        let at = Arc::new(AtomicI64::new(WAITS));
        self.running.insert(
            id,
            Running {
                partition: partition.clone(),
                records: records.len(),
                at: at.clone(),
                seen: (WAITS, Instant::now()),
                hung: false,
            },
        );
        let transformer = self.transformer.clone();
        let settings = self.settings.clone();
        let number = again.as_ref().map_or(1, |w| w.failure.attempts + 1);
        let mut answer = Answer {
            done: Some(JobDone {
                id,
                partition,
                epoch,
                life,
                from,
                again,
                results: None,
                took: Duration::ZERO,
            }),
            sender: self.sender.clone(),
        };
        // A record's own panic is caught inside. What comes through here (a panic with a payload that panics when it
        // is dropped) leaves no results, which are never taken for empty ones. Its payload is not dropped again.
        match transformer.execution() {
            Execution::Async => {
                let permits = self.permits.clone();
                tokio::spawn(async move {
                    let started = Instant::now();
                    let work = run_async(&*transformer, records, number, &settings, &permits);
                    let results = AssertUnwindSafe(work).catch_unwind().await;
                    answer.is(results.map_err(std::mem::forget).ok(), started);
                });
            }
            Execution::Cpu | Execution::Blocking => self.threads.run(move || {
                let started = Instant::now();
                let work = || run_sync(&*transformer, records, number, &settings, &at);
                let results = std::panic::catch_unwind(AssertUnwindSafe(work));
                // Nothing hangs any more, however late the worker takes the answer.
                at.store(WAITS, Ordering::Relaxed);
                answer.is(results.map_err(std::mem::forget).ok(), started);
            }),
        }
    }

    /// Waits for a job to end. Cancel safe.
    pub(crate) async fn done(&mut self) -> JobDone {
        match self.receiver.recv().await {
            Some(done) => self.ended(done),
            // Never: the stage holds a sender of its own.
            None => std::future::pending().await,
        }
    }

    /// A job that has ended already, if there is one.
    pub(crate) fn try_done(&mut self) -> Option<JobDone> {
        let done = self.receiver.try_recv().ok()?;
        Some(self.ended(done))
    }

    fn ended(&mut self, done: JobDone) -> JobDone {
        if let Some(running) = self.running.remove(&done.id)
            && running.hung
        {
            self.threads.allow_one_less();
        }
        done
    }

    /// The synchronous transforms that hang. Each is given up on as far as that is possible: others may use another
    /// thread in its place. A record counts from when it is first seen here, for a look at the clock for each would cost
    /// more than it tells: what is looked at every quarter of a second is found that much later.
    pub(crate) fn hung(&mut self) -> Vec<Hung> {
        if self.transformer.execution() == Execution::Async {
            return Vec::new();
        }
        let now = Instant::now();
        let mut hung = Vec::new();
        for running in self.running.values_mut() {
            let at = running.at.load(Ordering::Relaxed);
            if at != running.seen.0 {
                running.seen = (at, now);
                if std::mem::take(&mut running.hung) {
                    self.threads.allow_one_less();
                }
            }
            let since = running.seen.1;
            if at == WAITS || now - since < self.settings.timeout {
                continue;
            }
            let position = running.partition.at(at);
            if !running.hung {
                running.hung = true;
                self.threads.allow_one_more();
                tracing::error!(
                    dedupKey = %position,
                    "the transform of {position} has been running for {:?} (ORCH_TRANSFORM_TIMEOUT_MS): a synchronous \
                     transformer cannot be cancelled; its partition waits for it",
                    now - since
                );
            }
            hung.push(Hung { position, since });
        }
        hung
    }
}

/// What a job tells the worker in the end, whatever becomes of it: dropped before, that it broke down.
struct Answer {
    done: Option<JobDone>,
    sender: mpsc::UnboundedSender<JobDone>,
}

impl Answer {
    fn is(&mut self, results: Option<Vec<(Record, Transformed)>>, started: Instant) {
        if let Some(done) = &mut self.done {
            done.results = results;
            done.took = started.elapsed();
        }
        self.tell();
    }

    fn tell(&mut self) {
        if let Some(done) = self.done.take()
            && self.sender.send(done).is_err()
        {
            tracing::debug!("a transform ended after its worker");
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.tell();
    }
}

impl<T> fmt::Debug for Stage<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("settings", &self.settings)
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

fn run_sync<T: Transformer>(
    transformer: &T,
    records: Vec<Record>,
    number: u32,
    settings: &StageSettings,
    at: &AtomicI64,
) -> Vec<(Record, Transformed)> {
    let attempt = Attempt::new(number);
    let refuses = !settings.refuse_nothing();
    records
        .into_iter()
        .map(|record| {
            at.store(record.offset(), Ordering::Relaxed);
            if refuses && let Some(refused) = refused(&record, settings) {
                return (record, refused);
            }
            let cx = Context::new(&record, attempt);
            let call = || transformer.transform(&record, &cx).now_or_never();
            let call = || with_record(&record, call);
            let result = match std::panic::catch_unwind(AssertUnwindSafe(call)) {
                Ok(Some(result)) => result,
                Ok(None) => Err(TransformError::permanent(
                    "the transformer says it is synchronous (Execution::Cpu or Blocking), but waits for something",
                )),
                Err(panic) => Err(panicked(&*panic)),
            };
            (record, result)
        })
        .collect()
}

async fn run_async<T: Transformer>(
    transformer: &T,
    records: Vec<Record>,
    number: u32,
    settings: &StageSettings,
    permits: &Semaphore,
) -> Vec<(Record, Transformed)> {
    let deadline = Instant::now() + settings.timeout;
    let attempt = Attempt::new(number).with_deadline(Some(deadline.into_std()));
    if records.len() > 1 && settings.refuse_nothing() {
        let batch = async { transformer.transform_batch(&records, attempt).await };
        let batch = in_batch(&records, AssertUnwindSafe(batch).catch_unwind());
        if let Ok(Ok(Some(results))) = tokio::time::timeout_at(deadline, batch).await
            && results.len() == records.len()
        {
            return records.into_iter().zip(results).collect();
        }
    }
    stream::iter(records)
        .map(|record| async move {
            let result = run_one(transformer, &record, number, settings, permits).await;
            (record, result)
        })
        .buffered(settings.concurrency.max(1))
        .collect()
        .await
}

async fn run_one<T: Transformer>(
    transformer: &T,
    record: &Record,
    number: u32,
    settings: &StageSettings,
    permits: &Semaphore,
) -> Transformed {
    if let Some(refused) = refused(record, settings) {
        return refused;
    }
    let permit = permits.acquire().await;
    let deadline = Instant::now() + settings.timeout;
    let attempt = Attempt::new(number).with_deadline(Some(deadline.into_std()));
    let cx = Context::new(record, attempt);
    let call = AssertUnwindSafe(async { transformer.transform(record, &cx).await }).catch_unwind();
    let result = tokio::time::timeout_at(deadline, in_record(record, call)).await;
    drop(permit);
    match result {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(panicked(&*panic)),
        Err(_) => Err(TransformError::transient(format!(
            "not transformed within {:?} (ORCH_TRANSFORM_TIMEOUT_MS)",
            settings.timeout
        ))
        .at_stage(Step::Deadline)),
    }
}

/// What becomes of a record that is not to be given to the transformer.
fn refused(record: &Record, settings: &StageSettings) -> Option<Transformed> {
    if settings.refuse_nothing() {
        return None;
    }
    let position = record.position();
    if settings.dead_letter_records.contains(&position) {
        return Some(Err(listed_by_operator()));
    }
    let starts = settings.end_the_process.get(&position)?;
    Some(Err(ends_the_process(*starts)))
}
