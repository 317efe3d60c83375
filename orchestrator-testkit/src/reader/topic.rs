//! One consumer on one topic, and what it knows of the topic's end.
//!
//! Used by `mod.rs` only. One consumer a topic, because rdkafka's end-of-file event names the
//! partition but not the topic. It must never subscribe or commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::{Isolation, ReadError, ReadRecord};

const METADATA_DEADLINE: Duration = Duration::from_secs(60);

pub(super) struct TopicReader {
    name: Arc<str>,
    consumer: BaseConsumer,
    /// The offset after the last record read, by partition.
    positions: BTreeMap<i32, i64>,
    /// Partitions read to their end since the last rewind of that knowledge.
    at_end: BTreeSet<i32>,
}

impl TopicReader {
    pub(super) fn open(
        bootstrap: &str,
        topic: &str,
        isolation: Isolation,
    ) -> Result<Self, ReadError> {
        let client = |source| ReadError::Client {
            topic: topic.to_owned(),
            source,
        };
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            // rdkafka wants a group to poll at all; without subscribe and commit it stays unknown.
            .set("group.id", "orchestrator-testkit-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", isolation.as_config())
            .set("fetch.wait.max.ms", "50")
            .set("fetch.queue.backoff.ms", "2")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "500")
            .set("check.crcs", "true")
            .create()
            .map_err(client)?;
        let metadata = consumer
            .fetch_metadata(Some(topic), METADATA_DEADLINE)
            .map_err(client)?;
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        let positions: BTreeMap<i32, i64> = partitions.map(|p| (p.id(), 0)).collect();
        if positions.is_empty() {
            return Err(ReadError::NoTopic(topic.to_owned()));
        }
        let mut reader = Self {
            name: topic.into(),
            consumer,
            positions,
            at_end: BTreeSet::new(),
        };
        reader.look_for_ends_again()?;
        Ok(reader)
    }

    /// Forgets which partitions were at their end. The event comes once for an end; assigning anew
    /// brings it again, and also shows what was written since.
    pub(super) fn look_for_ends_again(&mut self) -> Result<(), ReadError> {
        let client = |source| ReadError::Client {
            topic: self.name.to_string(),
            source,
        };
        let mut assignment = TopicPartitionList::new();
        for (partition, next) in &self.positions {
            assignment
                .add_partition_offset(&self.name, *partition, Offset::Offset(*next))
                .map_err(client)?;
        }
        self.consumer.assign(&assignment).map_err(client)?;
        self.at_end.clear();
        Ok(())
    }

    /// The next record, if one comes within `wait`. Events and passing errors give none.
    pub(super) fn poll(&mut self, wait: Duration) -> Option<ReadRecord> {
        match self.consumer.poll(wait)? {
            Ok(message) => {
                let record = ReadRecord::copy(&message, &self.name);
                self.at_end.remove(&message.partition());
                self.positions
                    .insert(message.partition(), message.offset() + 1);
                Some(record)
            }
            Err(ClientError::PartitionEOF(partition)) => {
                self.at_end.insert(partition);
                None
            }
            // The client's trouble with a broker that may come back: the deadline decides.
            Err(_) => None,
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at_end.len() == self.positions.len()
    }

    pub(super) fn describe(&self) -> String {
        let state = self.positions.iter().map(|(partition, next)| {
            let end = if self.at_end.contains(partition) {
                " (end)"
            } else {
                ""
            };
            format!("{}-{partition}@{next}{end}", self.name)
        });
        state.collect::<Vec<_>>().join(", ")
    }
}
