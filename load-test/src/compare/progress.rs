//! How far a consumer group has come, seen from outside: the sum of its committed offsets. Used by
//! `measure` while a program runs, so it must cost little: one small request per look, never a record.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::topics;

const BROKER_TIMEOUT: Duration = Duration::from_secs(15);

/// Watches one group on one topic. Does not join the group.
pub(crate) struct Progress {
    consumer: BaseConsumer,
    partitions: TopicPartitionList,
    /// Sum of the offsets the partitions begin with.
    origin: i64,
}

impl Progress {
    /// Also connects to the group's coordinator, so that the first look is as quick as the others.
    pub(crate) fn watch(servers: &str, topic: &str, group: &str) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            // read_committed would also ask for *stable* offsets: the broker then refuses to answer
            // while a transaction is open. The last committed ones are what has become visible.
            .set("isolation.level", "read_uncommitted")
            .create()
            .context("consumer")?;
        let mut partitions = TopicPartitionList::new();
        let mut origin = 0;
        for partition in topics::partitions_of(&consumer, topic)? {
            partitions.add_partition(topic, partition);
            origin += consumer
                .fetch_watermarks(topic, partition, BROKER_TIMEOUT)?
                .0;
        }
        let progress = Self {
            consumer,
            partitions,
            origin,
        };
        // A broker that has just come up makes its groups' coordinators first.
        let started = Instant::now();
        while let Err(error) = progress.passed() {
            if started.elapsed() > BROKER_TIMEOUT {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(progress)
    }

    /// Records the group has passed.
    pub(crate) fn passed(&self) -> Result<u64> {
        let committed = self
            .consumer
            .committed_offsets(self.partitions.clone(), BROKER_TIMEOUT)
            .context("committed offsets")?;
        let (mut sum, mut started) = (0, false);
        for partition in committed.elements() {
            if let Offset::Offset(next) = partition.offset() {
                sum += next;
                started = true;
            }
        }
        // Partitions without a committed offset count as 0, right for a topic that begins there.
        Ok(if started {
            u64::try_from(sum - self.origin)?
        } else {
            0
        })
    }
}
