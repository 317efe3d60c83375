//! Where a partition is read from: its committed offset, compared with what the topic still has. Asked within the
//! assign callback, and by the session's helper thread when that had no answer in time. Nothing here moves a consumer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orchestrator_core::SourcePartition;
use orchestrator_core::quarantine::Mark;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::{OnOffsetLost, StartFrom};
use crate::planted::{Bug, planted};

/// The two rules by which a start is found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartRules {
    pub(crate) start_from: StartFrom,
    pub(crate) on_offset_lost: OnOffsetLost,
}

/// Where a partition starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    At {
        position: i64,
        remember: bool,
        mark: Option<Mark>,
    },
    Lost {
        committed: i64,
        low: i64,
        high: i64,
    },
}

impl StartRules {
    /// Where a partition with these offsets starts. `high` is what read_committed readers see as the end, so a
    /// committed offset beyond it is only lost if the broker has said so (`refused`).
    fn start(self, committed: Option<Committed>, low: i64, high: i64, refused: bool) -> Start {
        let remembered = |position| Start::At {
            position,
            remember: true,
            mark: None,
        };
        let Some((committed, mark)) = committed else {
            return remembered(match self.start_from {
                StartFrom::Earliest => low,
                StartFrom::Latest => high,
            });
        };
        if committed >= low && (committed <= high || !refused) {
            return Start::At {
                position: committed + i64::from(planted(Bug::HeldSkipped)),
                remember: false,
                mark,
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

/// A committed offset, and the mark beside it.
pub(crate) type Committed = (i64, Option<Mark>);

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
            if let (Some((committed, _)), Start::At { position, .. }) = (committed, start)
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
) -> KafkaResult<BTreeMap<SourcePartition, Option<Committed>>> {
    let asked = listed(partitions, Offset::Invalid)?;
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let answer = consumer.committed_offsets(asked, patience)?;
    Ok(answered(&answer, |element| match element.offset() {
        Offset::Offset(offset) => Some(Some((offset, Mark::parse(element.metadata())))),
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
    Ok(answered(&answer, |element| match element.offset() {
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
    read: impl Fn(&TopicPartitionListElem<'_>) -> Option<T>,
) -> BTreeMap<SourcePartition, T> {
    let elements = list.elements();
    let answered = elements.iter().filter(|element| element.error().is_ok());
    answered
        .filter_map(|element| {
            let partition = SourcePartition::new(element.topic(), element.partition());
            Some((partition, read(element)?))
        })
        .collect()
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
        Start::At {
            position,
            remember,
            mark: None,
        }
    }

    #[test]
    fn a_group_without_offsets_starts_where_it_is_told_and_remembers() {
        assert_eq!(HOLD_FROM_LATEST.start(None, 10, 20, false), at(20, true));
        assert_eq!(EARLIEST.start(None, 10, 20, false), at(10, true));
    }

    #[test]
    fn a_committed_offset_that_exists_is_the_start() {
        for committed in [10, 15, 20] {
            let start = HOLD_FROM_LATEST.start(Some((committed, None)), 10, 20, true);
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
        assert_eq!(HOLD_FROM_LATEST.start(Some((9, None)), 10, 20, false), lost);
        assert_eq!(EARLIEST.start(Some((9, None)), 10, 20, false), at(10, true));
    }

    #[test]
    fn a_committed_offset_behind_an_open_transaction_is_lost_only_if_the_broker_says_so() {
        assert_eq!(
            HOLD_FROM_LATEST.start(Some((21, None)), 10, 20, false),
            at(21, false)
        );
        let lost = Start::Lost {
            committed: 21,
            low: 10,
            high: 20,
        };
        assert_eq!(HOLD_FROM_LATEST.start(Some((21, None)), 10, 20, true), lost);
        assert_eq!(EARLIEST.start(Some((21, None)), 10, 20, true), at(10, true));
    }
}
