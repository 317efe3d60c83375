//! The lanes of one run and its virtual time: what the worker does with a session and a committer, without either.
//! Called by `testing`; every decision is `judge`'s and every order the lane's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::drive::caught;
use super::{Outcome, Tested};
use crate::error::{FailureClass, TransformError};
use crate::failure::{Failure, FailureRecord};
use crate::hold::HoldReason;
use crate::judge::{Judgement, brake, due, judge_failure, listed_by_operator};
use crate::lane::{Lane, Tried, Waiting};
use crate::limits::{Answer, check_outputs};
use crate::mode::{Policy, Verdict};
use crate::output::Outputs;
use crate::ports::{Done, Epoch, FailedFate, Fate, TopicFacts};
use crate::record::{Record, SourcePartition, SourcePosition, Topic};
use crate::transform::{Attempt, Context, Execution, Transformer};

/// Back-offs are taken at their upper bound: the same every time.
const LONGEST: f64 = 1.0;

/// A record and what the transformer made of it.
type Transformed = (Record, Result<Outputs, TransformError>);

/// See the module.
pub(super) struct Bench<'a> {
    policy: &'a Policy,
    /// The target, and what is known of it and of any other topic.
    target: Topic,
    topics: Answer,
    /// An origin to count from; it is never compared with a clock.
    start: Instant,
    now: Instant,
    lanes: BTreeMap<SourcePartition, Lane>,
    tries: BTreeMap<SourcePosition, Progress>,
    stopped: bool,
}

/// What is known of a record so far.
#[derive(Default)]
struct Progress {
    attempts: u32,
    waited: Duration,
    committed: Option<Fate>,
    waits: Option<(HoldReason, Failure)>,
    stops: bool,
}

impl<'a> Bench<'a> {
    pub(super) fn new(policy: &'a Policy, max_message_bytes: usize, records: &[Record]) -> Self {
        let start = Instant::now();
        let mut lanes = BTreeMap::new();
        for record in records {
            lanes.entry(record.partition().clone()).or_insert_with(|| {
                Lane::new(record.partition().clone(), Epoch(1), record.offset())
            });
        }
        Self {
            policy,
            target: Topic::from("ORCH_TARGET_TOPIC"),
            topics: Ok(TopicFacts::Known { max_message_bytes }),
            start,
            now: start,
            lanes,
            tries: BTreeMap::new(),
            stopped: false,
        }
    }

    /// Runs until nothing is to be tried again within the patience.
    pub(super) async fn run<T: Transformer>(
        &mut self,
        transformer: &T,
        records: &[Record],
        patience: Duration,
    ) {
        self.first_tries(transformer, records).await;
        loop {
            self.commit();
            match self.next_due(patience) {
                Some(next) => self.now = next,
                None => return,
            }
            self.tries_again(transformer).await;
        }
    }

    async fn first_tries<T: Transformer>(&mut self, transformer: &T, records: &[Record]) {
        let partitions: Vec<SourcePartition> = self.lanes.keys().cloned().collect();
        for partition in partitions {
            let mine = records.iter().filter(|r| *r.partition() == partition);
            let mine: Vec<Record> = mine.cloned().collect();
            let (Some(first), Some(last)) = (mine.first(), mine.last()) else {
                continue;
            };
            assert!(
                mine.is_sorted_by(|a, b| a.offset() < b.offset()),
                "the offsets of {partition} must grow"
            );
            let (from, next) = (first.offset(), last.offset() + 1);
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.take_in(from, next, &mine);
            }
            let results = self.transform(transformer, mine, 1).await;
            let brake = self.brake(&results);
            let judged = results
                .into_iter()
                .map(|result| self.judge(result, None, brake));
            let tried: Vec<Tried> = judged.collect();
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.transformed(from, tried);
            }
        }
    }

    async fn tries_again<T: Transformer>(&mut self, transformer: &T) {
        let mut waiting = Vec::new();
        for lane in self.lanes.values_mut() {
            waiting.extend(lane.start_due(self.now));
        }
        for again in waiting {
            if again.reason == HoldReason::Poison {
                // The runtime tries it again too, since somebody may mend the transformer; nobody does here.
                continue;
            }
            let number = again.failure.attempts + 1;
            let record = vec![again.record.clone()];
            let results = self.transform(transformer, record, number).await;
            let brake = self.brake(&results);
            for result in results {
                let tried = self.judge(result, Some(&again), brake);
                if let Some(lane) = self.lanes.get_mut(again.record.partition()) {
                    lane.retried(again.record.offset(), tried);
                }
            }
        }
    }

    async fn transform<T: Transformer>(
        &self,
        transformer: &T,
        records: Vec<Record>,
        number: u32,
    ) -> Vec<Transformed> {
        let attempt = Attempt::new(number);
        let listed = &self.policy.dead_letter_records;
        if transformer.execution() == Execution::Async && records.len() > 1 && listed.is_empty() {
            let batch = caught(transformer.transform_batch(&records, attempt)).await;
            if let Ok(Some(results)) = batch
                && results.len() == records.len()
            {
                return records.into_iter().zip(results).collect();
            }
        }
        let mut results = Vec::with_capacity(records.len());
        for record in records {
            let result = if listed.contains(&record.position()) {
                Err(listed_by_operator())
            } else {
                let cx = Context::new(&record, attempt);
                let call = async { transformer.transform(&record, &cx).await };
                caught(call).await.and_then(|result| result)
            };
            results.push((record, result));
        }
        results
    }

    fn brake(&self, results: &[Transformed]) -> bool {
        let errors = results
            .iter()
            .filter_map(|(_, result)| result.as_ref().err());
        let (mut failing, mut transient) = (0, 0);
        for error in errors {
            failing += 1;
            transient += usize::from(error.class() == FailureClass::Transient);
        }
        transient > 0
            && brake(
                self.policy,
                self.lanes.values(),
                transient,
                results.len() - failing,
            )
    }

    fn judge(
        &mut self,
        (record, result): Transformed,
        again: Option<&Waiting>,
        brake: bool,
    ) -> Tried {
        let now_ms = (self.now - self.start).as_millis() as i64;
        let progress = self.tries.entry(record.position()).or_default();
        progress.waited = self.now - self.start;
        progress.waits = None;
        let checked = result.and_then(|outputs| {
            let (target, known) = (Some(&self.target), |_: Option<&Topic>| Some(&self.topics));
            check_outputs(&record, &outputs, usize::MAX, target, known)?;
            Ok(outputs)
        });
        let error = match checked {
            Ok(outputs) => {
                progress.attempts = again.map_or(0, |w| w.failure.attempts) + 1;
                let fate = Fate::Outputs(outputs);
                return Tried::Done(Done { record, fate });
            }
            Err(error) => error,
        };
        let Judgement {
            failure,
            in_a_row,
            verdict,
        } = judge_failure(self.policy, &error, again, brake, now_ms, LONGEST);
        progress.attempts = failure.attempts;
        let (reason, after) = match verdict {
            Verdict::Pass { dead_letter } => {
                return Tried::Done(passed(record, failure, dead_letter));
            }
            Verdict::Hold { reason, after } => (reason, after),
            Verdict::Stop => {
                self.stopped = true;
                progress.stops = true;
                (HoldReason::Poison, Duration::MAX)
            }
        };
        progress.waits = Some((reason, failure.clone()));
        Tried::Waiting(Box::new(Waiting {
            record,
            failure,
            in_a_row,
            reason,
            due: due(self.now, after),
        }))
    }

    /// Takes out what is ready, in order: what the runtime would commit.
    fn commit(&mut self) {
        for lane in self.lanes.values_mut() {
            while let Some(slice) = lane.take_ready(usize::MAX, usize::MAX, usize::MAX) {
                for done in slice.done {
                    let progress = self.tries.entry(done.record.position()).or_default();
                    progress.committed = Some(done.fate);
                }
            }
        }
    }

    /// When something is to be tried again, if that is within the patience and the run has not ended.
    fn next_due(&self, patience: Duration) -> Option<Instant> {
        let due = self.lanes.values().filter_map(Lane::next_due).min()?;
        (!self.stopped && due.saturating_duration_since(self.start) <= patience).then_some(due)
    }

    pub(super) fn tested(&mut self, record: Record) -> Tested {
        let held = self.lanes.get(record.partition()).and_then(Lane::held);
        let held = held.map(|held| held.offset);
        let progress = self.tries.remove(&record.position()).unwrap_or_default();
        let outcome = match (progress.committed, progress.waits) {
            (Some(Fate::Outputs(outputs)), _) => Outcome::Outputs(outputs),
            (Some(Fate::Failed(failed)), _) => Outcome::Passed {
                dead_letter: failed.failure.dead_lettered,
                failure: failed.failure.failure,
            },
            (None, Some((_, failure))) if progress.stops => Outcome::Stopped { failure },
            (None, Some((reason, failure))) if held == Some(record.offset()) => {
                Outcome::Held { reason, failure }
            }
            (None, _) => Outcome::Behind {
                offset: held.unwrap_or(record.offset()),
            },
        };
        Tested {
            attempts: progress.attempts,
            waited: progress.waited,
            outcome,
            record,
        }
    }
}

fn passed(record: Record, failure: Failure, dead_letter: bool) -> Done {
    let failure = FailureRecord {
        record: record.clone(),
        target_topic: None,
        failure,
        dead_lettered: dead_letter,
        fence: 0,
    };
    let failed = FailedFate {
        failure,
        dead_letter: None,
        recorded: false,
    };
    Done {
        record,
        fate: Fate::Failed(Box::new(failed)),
    }
}
