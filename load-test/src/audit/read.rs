//! A whole topic, read once by a plain read_committed consumer, to its end as it is now.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::book::Seen;

const POLL: Duration = Duration::from_millis(100);
/// So long no record may come before the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows every record of these partitions, from these offsets on.
pub(super) fn all(
    servers: &str,
    topic: &str,
    starts: &[(i32, i64)],
    mut show: impl FnMut(Seen<'_>),
) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        // rdkafka wants a group to poll at all; without subscribe and commit it stays unknown.
        .set("group.id", "load-test-audit")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        // A record that is gone is trouble, never something to read past.
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "2")
        .create()
        .context("audit's consumer")?;
    let mut all = TopicPartitionList::new();
    for (partition, offset) in starts {
        all.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    consumer.assign(&all)?;
    let mut open: BTreeSet<i32> = starts.iter().map(|(partition, _)| *partition).collect();
    let mut moved = Instant::now();
    while !open.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(record)) => {
                show(Seen {
                    topic,
                    partition: record.partition(),
                    offset: record.offset(),
                    key: record.key(),
                    value: record.payload(),
                });
                moved = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                bail!("topic {topic} cannot be read: {code}")
            }
            other if moved.elapsed() > PATIENCE => {
                let said = other.and_then(Result::err).map(|error| error.to_string());
                bail!("topic {topic} cannot be read to its end within {PATIENCE:?}: {said:?}")
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(())
}
