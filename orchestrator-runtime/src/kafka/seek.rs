//! Puts the consumer at a position of a partition. Called by the poll thread, outside of rebalance callbacks.

use std::time::Duration;

use orchestrator_core::SourcePartition;
use rdkafka::consumer::{BaseConsumer, Consumer, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::ffi;
use super::offsets::listed;
use super::rebalance::Context;

/// How long a seek may take before it is tried again.
const SEEK_PATIENCE: Duration = Duration::from_secs(1);

/// Puts the consumer at a position of a partition and lets it flow. What was fetched before never comes out: it is
/// outdated in librdkafka, and what is in the poll thread's hand is of an earlier turn.
pub(crate) fn go_to(
    consumer: &BaseConsumer<Context>,
    partition: &SourcePartition,
    at: i64,
) -> KafkaResult<()> {
    let (topic, number, at) = (&*partition.topic, partition.partition, Offset::Offset(at));
    if let Err(error) = consumer.seek(topic, number, at, SEEK_PATIENCE) {
        if ffi::waiting_events(consumer) > 0 {
            // It may be a revoke, and an assignment would be taken for the answer to it. Later, then.
            return Err(error);
        }
        // After an error of its own librdkafka no longer reads a partition, and only an assignment changes that.
        tracing::debug!(%partition, %error, "cannot seek; assigning anew");
        assign_anew(consumer, partition, at)?;
    }
    consumer.resume(&listed([partition], Offset::Invalid)?)
}

fn assign_anew(
    consumer: &BaseConsumer<Context>,
    partition: &SourcePartition,
    at: Offset,
) -> KafkaResult<()> {
    let one = listed([partition], at)?;
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => {
            consumer.incremental_unassign(&one)?;
            consumer.incremental_assign(&one)?;
        }
        _ => {
            let mut all: TopicPartitionList = consumer.assignment()?;
            all.set_all_offsets(Offset::End)?;
            for (partition, position) in consumer.context().gather.lock().positions() {
                let offset = Offset::Offset(position);
                all.set_partition_offset(&partition.topic, partition.partition, offset)?;
            }
            all.set_partition_offset(&partition.topic, partition.partition, at)?;
            consumer.assign(&all)?;
            let all = all.elements();
            let all: Vec<_> = all
                .iter()
                .map(|element| SourcePartition::new(element.topic(), element.partition()))
                .collect();
            consumer.context().take_records(consumer, &all);
        }
    }
    let one = std::slice::from_ref(partition);
    consumer.context().take_records(consumer, one);
    Ok(())
}
