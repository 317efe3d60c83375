//! Offsets of groups and topics, as the broker has them.
//!
//! Part of `Admin`. It asks with a consumer that never subscribes, so that looking changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::{Admin, AdminError, CALL_DEADLINE, blocking, failed};
use crate::reader::Isolation;

impl Admin {
    /// The committed offsets of a group by partition; partitions without one are left out. What a
    /// transaction has not committed yet does not count, and is not waited for.
    pub async fn committed(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<BTreeMap<i32, i64>, AdminError> {
        let (admin, group, topic) = (self.clone(), group.to_owned(), topic.to_owned());
        blocking(move || {
            let what = format!("read the offsets of the group {group}");
            let consumer = admin.consumer(&group, Isolation::Uncommitted)?;
            let mut asked = TopicPartitionList::new();
            for partition in 0..admin.partition_count(&topic)? {
                asked.add_partition(&topic, partition);
            }
            let answer = consumer
                .committed_offsets(asked, CALL_DEADLINE)
                .map_err(failed(&what))?;
            let mut committed = BTreeMap::new();
            for element in answer.elements() {
                element.error().map_err(failed(&what))?;
                if let Offset::Offset(next) = element.offset() {
                    committed.insert(element.partition(), next);
                }
            }
            Ok(committed)
        })
        .await
    }

    /// The first offset of each partition that still exists.
    pub async fn start_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>, AdminError> {
        let marks = self.watermarks(topic, Isolation::Uncommitted).await?;
        Ok(marks
            .into_iter()
            .map(|(partition, (low, _))| (partition, low))
            .collect())
    }

    /// The offset after the last of each partition: for `Committed`, as far as open transactions
    /// let one read.
    pub async fn end_offsets(
        &self,
        topic: &str,
        isolation: Isolation,
    ) -> Result<BTreeMap<i32, i64>, AdminError> {
        let marks = self.watermarks(topic, isolation).await?;
        Ok(marks
            .into_iter()
            .map(|(partition, (_, high))| (partition, high))
            .collect())
    }

    /// Waits until the group has committed at least these offsets.
    ///
    /// # Errors
    /// At the deadline, with what was committed by then.
    pub async fn wait_for_committed(
        &self,
        group: &str,
        topic: &str,
        at_least: &BTreeMap<i32, i64>,
        deadline: Duration,
    ) -> Result<BTreeMap<i32, i64>, AdminError> {
        let give_up = Instant::now() + deadline;
        loop {
            // A coordinator that is still loading, or a broker that restarts, is waited for like the rest.
            let committed = match self.committed(group, topic).await {
                Ok(committed) => committed,
                Err(error) if Instant::now() >= give_up => return Err(error),
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let reached = |(partition, next): (&i32, &i64)| {
                *next == 0 || committed.get(partition).is_some_and(|c| c >= next)
            };
            if at_least.iter().all(reached) {
                return Ok(committed);
            }
            if Instant::now() >= give_up {
                return Err(AdminError {
                    what: format!("see the group {group} commit {at_least:?} in {deadline:?}"),
                    reason: format!("it has committed {committed:?}"),
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn watermarks(
        &self,
        topic: &str,
        isolation: Isolation,
    ) -> Result<BTreeMap<i32, (i64, i64)>, AdminError> {
        let (admin, topic) = (self.clone(), topic.to_owned());
        blocking(move || {
            let consumer = admin.consumer("", isolation)?;
            let mut marks = BTreeMap::new();
            for partition in 0..admin.partition_count(&topic)? {
                let both = consumer
                    .fetch_watermarks(&topic, partition, CALL_DEADLINE)
                    .map_err(failed(format_args!(
                        "read the offsets of {topic}-{partition}"
                    )))?;
                marks.insert(partition, both);
            }
            Ok(marks)
        })
        .await
    }

    /// A consumer that only asks; it never subscribes.
    fn consumer(&self, group: &str, isolation: Isolation) -> Result<BaseConsumer, AdminError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("isolation.level", isolation.as_config())
            .set("enable.auto.commit", "false");
        if !group.is_empty() {
            config.set("group.id", group);
        }
        config.create().map_err(failed("create a consumer"))
    }
}
