//! What becomes of each transformed record: outputs are checked against the topics they go to, failures are decided
//! about, dead letters are written. Part of the worker.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use orchestrator_core::dead_letter::dead_letter;
pub(super) use orchestrator_core::judge::brake;
use orchestrator_core::judge::{Judgement, due, judge_failure};
use orchestrator_core::lane::{Tried, Waiting};
use orchestrator_core::limits::{Answer, check_outputs};
use orchestrator_core::mode::Verdict;
use orchestrator_core::ports::{Committer, Done, FailedFate, Fate, TopicFacts};
use orchestrator_core::{
    Failure, FailureRecord, HoldReason, Output, Record, SourcePartition, Topic, TransformError,
};
use tokio::time::Instant;

use super::settings::WorkerSettings;
use super::stage::Transformed;
use super::topics::Topics;
use crate::clock::now_ms;

/// What the topics that a batch is written to allow, looked up for all of it at once.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// The target's: nearly all that is ever asked for.
    target: Option<Answer>,
    others: BTreeMap<Topic, Answer>,
}

impl Limits {
    /// What is known of a topic other than the target, or of the target.
    fn of(&self, topic: Option<&Topic>) -> Option<&Answer> {
        match topic {
            None => self.target.as_ref(),
            Some(topic) => self.others.get(topic),
        }
    }
}

/// Decides; owned by the worker.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) topics: Topics,
    random: fastrand::Rng,
    /// When each partition was assigned: see `FailureRecord::fence`.
    fences: HashMap<SourcePartition, i64>,
    /// A record that failed under `ORCH_ATOMIC_ON_POISON=STOP`, and how.
    pub(super) stop: Option<String>,
}

impl Judge {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            topics: Topics::default(),
            random: fastrand::Rng::with_seed(seed),
            fences: HashMap::new(),
            stop: None,
        }
    }

    /// A partition is ours from now on: what is written of it from here is newer than all before. Never later than now,
    /// whatever comes at once with it: a mark with the time of a commit does nothing to a row with a later fence.
    pub(super) fn assigned(&mut self, partition: &SourcePartition) {
        let newer = self.fences.get(partition).map_or(0, |last| last + 1);
        self.fences.insert(partition.clone(), now_ms().max(newer));
    }

    /// When a partition was assigned.
    pub(super) fn fence(&self, partition: &SourcePartition) -> i64 {
        self.fences.get(partition).copied().unwrap_or_else(now_ms)
    }

    /// Looks up the topics that these results are to be written to.
    pub(super) async fn limits<C: Committer>(
        &mut self,
        committer: &mut C,
        settings: &WorkerSettings,
        results: &[(Record, Transformed)],
    ) -> Limits {
        let mut limits = Limits::default();
        if let Some(topic) = &settings.target_topic {
            limits.target = Some(self.topics.look_up(committer, topic).await);
        }
        let others = &mut limits.others;
        for (_, result) in results {
            let outputs = result.iter().flat_map(|outputs| outputs.as_slice());
            for topic in outputs.filter_map(Output::topic) {
                if !others.contains_key(topic) {
                    let answer = self.topics.look_up(committer, topic).await;
                    others.insert(topic.clone(), answer);
                }
            }
        }
        // Any of them may fail yet, when its outputs are checked. All are of one partition, so one topic it is.
        if let Some(topic) = results
            .first()
            .and_then(|(record, _)| dlq_of(settings, record))
            && !others.contains_key(&topic)
        {
            let answer = self.topics.look_up(committer, &topic).await;
            others.insert(topic, answer);
        }
        limits
    }

    /// What becomes of one result.
    pub(super) fn judge(
        &mut self,
        settings: &WorkerSettings,
        limits: &Limits,
        brake: bool,
        (record, result): (Record, Transformed),
        again: Option<&Waiting>,
    ) -> Tried {
        let checked = result.and_then(|mut outputs| {
            if settings.output_dedup_header {
                outputs.set_dedup_keys(&record);
            }
            let most = settings.max_outputs_per_record;
            let target = settings.target_topic.as_ref();
            check_outputs(&record, &outputs, most, target, |topic| limits.of(topic))?;
            Ok(outputs)
        });
        match checked {
            Ok(outputs) => Tried::Done(Done {
                record,
                fate: Fate::Outputs(outputs),
            }),
            Err(error) => self.judge_failure(settings, limits, brake, &record, &error, again),
        }
    }

    /// What becomes of a record that failed.
    pub(super) fn judge_failure(
        &mut self,
        settings: &WorkerSettings,
        limits: &Limits,
        brake: bool,
        record: &Record,
        error: &TransformError,
        again: Option<&Waiting>,
    ) -> Tried {
        let Judgement {
            mut failure,
            in_a_row,
            verdict,
        } = judge_failure(
            &settings.policy,
            error,
            again,
            brake,
            now_ms(),
            self.random.f64(),
        );
        let (reason, after) = match verdict {
            Verdict::Pass { dead_letter } => {
                match self.passed(settings, limits, record, failure.clone(), dead_letter) {
                    Ok(done) => return Tried::Done(done),
                    Err(message) => {
                        failure.message = message;
                        let after = settings
                            .policy
                            .backoff
                            .equal_jitter(in_a_row, self.random.f64());
                        (HoldReason::DlqMissing, after)
                    }
                }
            }
            Verdict::Hold { reason, after } => (reason, after),
            Verdict::Stop => {
                self.stop
                    .get_or_insert_with(|| format!("{}: {}", record.position(), failure.message));
                (HoldReason::Poison, Duration::MAX)
            }
        };
        if reason != HoldReason::RetryBackoff {
            tracing::warn!(
                dedupKey = %record.dedup_key(),
                reason = reason.as_str(),
                attempts = failure.attempts,
                error = %failure.message,
                "{} is held at offset {}{}",
                record.partition(),
                record.offset(),
                remedy(reason, record),
            );
        }
        let now = Instant::now().into_std();
        Tried::Waiting(Box::new(Waiting {
            record: record.detached(),
            failure,
            in_a_row,
            reason,
            due: due(now, after),
        }))
    }

    fn passed(
        &mut self,
        settings: &WorkerSettings,
        limits: &Limits,
        record: &Record,
        failure: Failure,
        wants_letter: bool,
    ) -> Result<Done, String> {
        let mut failed = FailureRecord {
            record: record.detached(),
            target_topic: settings.target_topic.clone(),
            failure,
            dead_lettered: wants_letter,
            fence: self.fence(record.partition()),
        };
        let mut letter = None;
        if wants_letter {
            let topic = dlq_of(settings, record).ok_or("ORCH_DLQ_TOPIC is not set")?;
            match limits.of(Some(&topic)) {
                Some(Ok(TopicFacts::Known { max_message_bytes })) => {
                    letter = Some(dead_letter(
                        &failed,
                        &topic,
                        &settings.consumer_group,
                        *max_message_bytes,
                    ));
                }
                Some(Ok(TopicFacts::Missing)) => {
                    return Err(format!(
                        "the dead-letter topic {topic} (ORCH_DLQ_TOPIC) does not exist: create it"
                    ));
                }
                Some(Ok(TopicFacts::Forbidden)) => {
                    return Err(format!(
                        "the dead-letter topic {topic} (ORCH_DLQ_TOPIC) may not be written to: grant Write on it"
                    ));
                }
                Some(Err(error)) => return Err(error.clone()),
                None => return Err(format!("the dead-letter topic {topic} is not known yet")),
            }
        }
        failed.dead_lettered = letter.is_some();
        Ok(Done {
            record: failed.record.clone(),
            fate: Fate::Failed(Box::new(FailedFate {
                failure: failed,
                dead_letter: letter,
                recorded: false,
            })),
        })
    }
}

/// The topic a record's dead letter goes to.
fn dlq_of(settings: &WorkerSettings, record: &Record) -> Option<Topic> {
    let dlq = settings.dlq_topic.as_ref()?;
    Some(dlq.for_source(record.topic()))
}

/// What an operator can do about a held record.
fn remedy(reason: HoldReason, record: &Record) -> String {
    match reason {
        HoldReason::Poison => {
            let (topic, partition, offset) = (
                record.topic(),
                record.partition().partition,
                record.offset(),
            );
            format!(
                "; to free it, fix the transformer or set ORCH_DEAD_LETTER_RECORDS={topic}:{partition}:{offset}"
            )
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_come_at_once_have_no_fence_in_the_future() {
        let mut judge = Judge::new(1);
        let partitions: Vec<_> = (0..1_000).map(|n| SourcePartition::new("in", n)).collect();
        for partition in &partitions {
            judge.assigned(partition);
        }
        let now = now_ms();
        assert!(
            partitions
                .iter()
                .all(|partition| judge.fence(partition) <= now)
        );
        let before = judge.fence(&partitions[0]);
        judge.assigned(&partitions[0]);
        assert!(judge.fence(&partitions[0]) > before);
    }
}
