//! The session's helper thread: asks the brokers what takes time, so that the poll thread never waits for an answer.
//! Where partitions start, whether brokers and source topics are there and the consumer still finds them, whether our place
//! in the group is ours. It moves no consumer; answers go to the poll thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::SessionFailure;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::lost_brokers::LostBrokers;
use super::offsets::{Start, StartRules, look_up};
use super::place::Watch;
use super::status::SessionStatus;

/// How long one answer is waited for.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// How long it lets be before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// One attempt at finding a start; an answer to an earlier attempt is worth nothing.
pub(crate) type Attempt = u64;

/// What the helper thread is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Find where a partition starts, and go on until there is an answer or nobody waits for it any more.
    Start {
        partition: SourcePartition,
        attempt: Attempt,
        refused: bool,
    },
    /// See whether the brokers can be reached and the source topics exist, until all is well.
    Probe,
    /// See whether our place in the group is ours: it has refused offsets from us.
    Place,
}

/// Asks the brokers what takes time, so that the poll thread never waits for an answer.
pub(crate) struct Asker<C: ConsumerContext + 'static> {
    #[allow(clippy::type_complexity)]
    /// The consumer of the moment. Asked for again and again: the poll thread is to be the one that ends it.
    pub(crate) consumer: Box<dyn Fn() -> Option<Arc<BaseConsumer<C>>> + Send>,
    pub(crate) topics: Vec<String>,
    pub(crate) rules: StartRules,
    pub(crate) status: Arc<SessionStatus>,
    /// Whether somebody still waits for the answer to an attempt.
    #[allow(clippy::type_complexity)]
    pub(crate) is_wanted: Box<dyn Fn(&SourcePartition, Attempt) -> bool + Send>,
    /// Where answers go.
    pub(crate) answer: Box<dyn Fn(SourcePartition, Attempt, Start) + Send>,
    /// Over our place in the group, if we have one.
    pub(crate) watch: Option<Watch>,
    pub(crate) brokers: LostBrokers,
    /// Where it goes that the consumer cannot go on: our place is lost, or its brokers.
    pub(crate) failed: Box<dyn Fn(SessionFailure) + Send>,
}

impl<C: ConsumerContext + 'static> Asker<C> {
    /// Starts the thread; it ends when nobody can ask any more.
    pub(crate) fn spawn(self, questions: Receiver<Ask>) -> std::io::Result<()> {
        thread::Builder::new()
            .name("orch-ask".to_owned())
            .spawn(move || self.run(&questions))
            .map(drop)
    }

    fn run(mut self, questions: &Receiver<Ask>) {
        let mut starts: Vec<(SourcePartition, Attempt, bool)> = Vec::new();
        let mut probing = false;
        loop {
            let patience = if probing || !starts.is_empty() {
                ASK_AGAIN_AFTER
            } else {
                LostBrokers::EVERY
            };
            let mut question = match questions.recv_timeout(patience) {
                Ok(question) => Some(question),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(asked) = question {
                match asked {
                    Ask::Probe => probing = true,
                    Ask::Place => {
                        if let Some(watch) = &mut self.watch {
                            watch.doubt();
                        }
                    }
                    Ask::Start {
                        partition,
                        attempt,
                        refused,
                    } => starts.push((partition, attempt, refused)),
                }
                question = questions.try_recv().ok();
            }
            let Some(consumer) = (self.consumer)() else {
                continue;
            };
            starts.retain(|(partition, attempt, _)| (self.is_wanted)(partition, *attempt));
            for refused in [false, true] {
                self.find_starts(&consumer, &mut starts, refused);
            }
            probing = probing && !self.probe(&consumer);
            let watch = self.watch.as_mut();
            let lost = watch.and_then(|watch| watch.look(&consumer, ASK_PATIENCE));
            if let Some(failure) = lost.or_else(|| self.brokers.look(consumer.client())) {
                (self.failed)(failure);
            }
        }
    }

    /// Asks for all at once, and if that gives nothing, one by one: one partition may keep the others waiting.
    fn find_starts(
        &self,
        consumer: &BaseConsumer<C>,
        starts: &mut Vec<(SourcePartition, Attempt, bool)>,
        refused: bool,
    ) {
        let of_kind = starts.iter().filter(|(_, _, r)| *r == refused);
        let all: Vec<_> = of_kind.map(|(partition, ..)| partition.clone()).collect();
        if all.is_empty() || self.find(consumer, &all, starts, refused) || all.len() == 1 {
            return;
        }
        for one in all {
            self.find(consumer, &[one], starts, refused);
        }
    }

    /// Whether there was any answer.
    fn find(
        &self,
        consumer: &BaseConsumer<C>,
        partitions: &[SourcePartition],
        starts: &mut Vec<(SourcePartition, Attempt, bool)>,
        refused: bool,
    ) -> bool {
        let found = look_up(consumer, partitions, self.rules, refused, ASK_PATIENCE);
        let found = found.unwrap_or_else(|error| {
            tracing::debug!(%error, "no start offsets yet; trying on");
            Vec::new()
        });
        for (partition, start) in &found {
            starts.retain(|(asked, attempt, _)| {
                if asked == partition {
                    (self.answer)(partition.clone(), *attempt, *start);
                }
                asked != partition
            });
        }
        !found.is_empty()
    }

    /// Whether all is well.
    fn probe(&self, consumer: &BaseConsumer<C>) -> bool {
        let mut problem = None;
        for topic in &self.topics {
            match consumer.fetch_metadata(Some(topic), ASK_PATIENCE) {
                Ok(metadata) => {
                    self.status.set_reachable(true);
                    let error = metadata.topics().iter().find_map(|topic| topic.error());
                    if let Some(error) = error {
                        problem = Some(topic_problem(topic, error.into()));
                    }
                }
                Err(error) => {
                    if matches!(
                        error,
                        KafkaError::MetadataFetch(
                            RDKafkaErrorCode::BrokerTransportFailure
                                | RDKafkaErrorCode::OperationTimedOut
                                | RDKafkaErrorCode::AllBrokersDown
                        )
                    ) {
                        self.status.set_reachable(false);
                    }
                    return false;
                }
            }
        }
        let well = problem.is_none();
        self.status.set_problem(problem);
        well
    }
}

/// What is wrong with a source topic, with the remedy.
pub(crate) fn topic_problem(topic: &str, error: RDKafkaErrorCode) -> String {
    match error {
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownPartition => {
            format!("source topic {topic} does not exist: create it, or correct ORCH_SOURCE_TOPICS")
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            format!("source topic {topic} may not be read: grant READ and DESCRIBE on it")
        }
        error => format!("source topic {topic}: {error}"),
    }
}

impl<C: ConsumerContext> std::fmt::Debug for Asker<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker")
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}
