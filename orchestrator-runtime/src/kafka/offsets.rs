//! Where a partition is read from: its committed offset, compared with what the topic still has. Asked within the
//! assign callback, and by the session's helper thread when that had no answer in time. Nothing here moves a consumer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::SessionFailure;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::place::Watch;
use super::status::SessionStatus;

/// How long the helper thread waits for one answer.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// How long it lets be before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Where a group without offsets starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// At the first record there is.
    Earliest,
    /// At the first record written from now on.
    Latest,
}

/// What happens when the next offset is gone from the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOffsetLost {
    /// The partition is held.
    Hold,
    /// The partition goes on at the first record there is.
    Earliest,
}

/// The two rules by which a start is found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartRules {
    pub(crate) start_from: StartFrom,
    pub(crate) on_offset_lost: OnOffsetLost,
}

/// Where a partition starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    At { position: i64, remember: bool },
    Lost { committed: i64, low: i64, high: i64 },
}

impl StartRules {
    /// Where a partition with these offsets starts. `high` is what read_committed readers see as the end, so a
    /// committed offset beyond it is only lost if the broker has said so (`refused`).
    fn start(self, committed: Option<i64>, low: i64, high: i64, refused: bool) -> Start {
        let remembered = |position| Start::At {
            position,
            remember: true,
        };
        let Some(committed) = committed else {
            return remembered(match self.start_from {
                StartFrom::Earliest => low,
                StartFrom::Latest => high,
            });
        };
        if committed >= low && (committed <= high || !refused) {
            return Start::At {
                position: committed,
                remember: false,
            };
        }
        match self.on_offset_lost {
            OnOffsetLost::Hold => Start::Lost {
                committed,
                low,
                high,
            },
            OnOffsetLost::Earliest => remembered(low),
        }
    }
}

/// Asks where these partitions start; gives those that there is an answer for. `refused`: the broker has refused to
/// read where they stood.
pub(crate) fn look_up<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[SourcePartition],
    rules: StartRules,
    refused: bool,
    patience: Duration,
) -> KafkaResult<Vec<(SourcePartition, Start)>> {
    let deadline = Instant::now() + patience;
    let left = || deadline.saturating_duration_since(Instant::now());
    let committed = committed(consumer, partitions, left())?;
    let low = boundary(consumer, partitions, Offset::Beginning, left())?;
    let high = boundary(consumer, partitions, Offset::End, left())?;
    let mut starts = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let known = (
            committed.get(partition),
            low.get(partition),
            high.get(partition),
        );
        if let (Some(&committed), Some(&low), Some(&high)) = known {
            let start = rules.start(committed, low, high, refused);
            if let (Some(committed), Start::At { position, .. }) = (committed, start)
                && position != committed
            {
                tracing::warn!(
                    %partition, committed, low, high, position,
                    "the committed offset is gone from the topic: records were lost, going on from the earliest \
                     (ORCH_ON_OFFSET_LOST=EARLIEST)"
                );
            }
            starts.push((partition.clone(), start));
        }
    }
    Ok(starts)
}

/// The group's committed offsets, stable ones only; without those partitions that there is no answer for.
pub(crate) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: impl IntoIterator<Item = impl std::borrow::Borrow<SourcePartition>>,
    patience: Duration,
) -> KafkaResult<BTreeMap<SourcePartition, Option<i64>>> {
    let asked = listed(partitions, Offset::Invalid)?;
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let answer = consumer.committed_offsets(asked, patience)?;
    Ok(answered(&answer, |offset| match offset {
        Offset::Offset(offset) => Some(Some(offset)),
        _ => Some(None),
    }))
}

/// The first or the last offset of each partition.
fn boundary<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[SourcePartition],
    which: Offset,
    patience: Duration,
) -> KafkaResult<BTreeMap<SourcePartition, i64>> {
    let asked = listed(partitions, which)?;
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let answer = consumer.offsets_for_times(asked, patience)?;
    Ok(answered(&answer, |offset| match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }))
}

/// A list of partitions at an offset.
pub(crate) fn listed(
    partitions: impl IntoIterator<Item = impl std::borrow::Borrow<SourcePartition>>,
    offset: Offset,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        let partition = partition.borrow();
        list.add_partition_offset(&partition.topic, partition.partition, offset)?;
    }
    Ok(list)
}

fn answered<T>(
    list: &TopicPartitionList,
    read: impl Fn(Offset) -> Option<T>,
) -> BTreeMap<SourcePartition, T> {
    let elements = list.elements();
    let answered = elements.iter().filter(|element| element.error().is_ok());
    answered
        .filter_map(|element| {
            let partition = SourcePartition::new(element.topic(), element.partition());
            Some((partition, read(element.offset())?))
        })
        .collect()
}

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
    /// Where it goes that our place is lost.
    pub(crate) place_lost: Box<dyn Fn(SessionFailure) + Send>,
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
            } else if self.watch.is_some() {
                Watch::EVERY
            } else {
                Duration::MAX
            };
            let mut question = match questions.recv_timeout(patience) {
                Ok(question) => Some(question),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(asked) = question {
                match asked {
                    Ask::Probe => probing = true,
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
            if let Some(failure) = watch.and_then(|watch| watch.look(&consumer, ASK_PATIENCE)) {
                (self.place_lost)(failure);
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD_FROM_LATEST: StartRules = StartRules {
        start_from: StartFrom::Latest,
        on_offset_lost: OnOffsetLost::Hold,
    };
    const EARLIEST: StartRules = StartRules {
        start_from: StartFrom::Earliest,
        on_offset_lost: OnOffsetLost::Earliest,
    };

    fn at(position: i64, remember: bool) -> Start {
        Start::At { position, remember }
    }

    #[test]
    fn a_group_without_offsets_starts_where_it_is_told_and_remembers() {
        assert_eq!(HOLD_FROM_LATEST.start(None, 10, 20, false), at(20, true));
        assert_eq!(EARLIEST.start(None, 10, 20, false), at(10, true));
    }

    #[test]
    fn a_committed_offset_that_exists_is_the_start() {
        for committed in [10, 15, 20] {
            let start = HOLD_FROM_LATEST.start(Some(committed), 10, 20, true);
            assert_eq!(start, at(committed, false));
        }
    }

    #[test]
    fn a_committed_offset_below_the_first_is_lost() {
        let lost = Start::Lost {
            committed: 9,
            low: 10,
            high: 20,
        };
        assert_eq!(HOLD_FROM_LATEST.start(Some(9), 10, 20, false), lost);
        assert_eq!(EARLIEST.start(Some(9), 10, 20, false), at(10, true));
    }

    #[test]
    fn a_committed_offset_behind_an_open_transaction_is_lost_only_if_the_broker_says_so() {
        assert_eq!(
            HOLD_FROM_LATEST.start(Some(21), 10, 20, false),
            at(21, false)
        );
        let lost = Start::Lost {
            committed: 21,
            low: 10,
            high: 20,
        };
        assert_eq!(HOLD_FROM_LATEST.start(Some(21), 10, 20, true), lost);
        assert_eq!(EARLIEST.start(Some(21), 10, 20, true), at(10, true));
    }
}
