//! Offsets as the cluster has them: of topics and of the audited group. It only asks, and never joins the group.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::{AuditError, Client};
use crate::reader::Isolation;

const CALL: Duration = Duration::from_secs(10);

/// An offset for each partition of a topic.
pub type Offsets = BTreeMap<i32, i64>;

/// A cluster, and a group of it.
pub struct Cluster {
    client: Client,
    committed: BaseConsumer,
    uncommitted: BaseConsumer,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cluster").field(&self.client).finish()
    }
}

impl Cluster {
    /// Connects lazily.
    ///
    /// # Errors
    /// Where the client does not take its settings.
    pub fn new(client: &Client, group: &str) -> Result<Self, AuditError> {
        Ok(Self {
            client: client.clone(),
            committed: client.consumer(group, Isolation::Committed)?,
            uncommitted: client.consumer(group, Isolation::Uncommitted)?,
        })
    }

    /// The first offset of each partition that still exists.
    ///
    /// # Errors
    /// A topic that is missing; a cluster that does not answer within the client's patience.
    pub fn begins(&self, topic: &str) -> Result<Offsets, AuditError> {
        let marks = self.watermarks(topic, Isolation::Uncommitted)?;
        Ok(marks
            .map(|(partition, (low, _))| (partition, low))
            .collect())
    }

    /// The offset after the last of each partition; for `Committed`, as far as open transactions let one read.
    ///
    /// # Errors
    /// As [`Cluster::begins`].
    pub fn ends(&self, topic: &str, isolation: Isolation) -> Result<Offsets, AuditError> {
        let marks = self.watermarks(topic, isolation)?;
        Ok(marks
            .map(|(partition, (_, high))| (partition, high))
            .collect())
    }

    /// The offsets that the group has committed; partitions without one are left out.
    ///
    /// `Uncommitted` takes what was committed, whatever is under way: everything below is passed. `Committed` waits
    /// for transactions that are about to move an offset (KIP-447), so that nothing that could be read before this
    /// call is beyond it.
    ///
    /// # Errors
    /// As [`Cluster::begins`].
    pub fn committed(&self, topic: &str, isolation: Isolation) -> Result<Offsets, AuditError> {
        let mut asked = self.partitions(topic, isolation)?;
        let mut committed = Offsets::new();
        let what = format_args!("read the offsets of the group in {topic}");
        // Those of a program at work may hardly ever be all at rest at once, but each is again and again.
        self.client.patiently(what, || {
            let mut list = TopicPartitionList::new();
            for partition in &asked {
                list.add_partition(topic, *partition);
            }
            let answer = self.consumer(isolation).committed_offsets(list, CALL)?;
            let mut refused = Ok(());
            for element in answer.elements() {
                let partition = element.partition();
                if let Err(error) = element.error() {
                    refused = Err(error);
                    continue;
                }
                asked.retain(|asked| *asked != partition);
                if let Offset::Offset(next) = element.offset() {
                    committed.insert(partition, next);
                }
            }
            refused
        })?;
        Ok(committed)
    }

    fn consumer(&self, isolation: Isolation) -> &BaseConsumer {
        match isolation {
            Isolation::Committed => &self.committed,
            Isolation::Uncommitted => &self.uncommitted,
        }
    }

    /// Asked by the client that asks for their offsets next: another one would hear of new partitions minutes later.
    fn partitions(&self, topic: &str, isolation: Isolation) -> Result<Vec<i32>, AuditError> {
        let what = format_args!("find the topic {topic}");
        let metadata = self.client.patiently(what, || {
            self.consumer(isolation).fetch_metadata(Some(topic), CALL)
        })?;
        let found = metadata
            .topics()
            .iter()
            .filter(|found| found.name() == topic);
        let partitions = found.flat_map(|found| found.partitions());
        let partitions: Vec<i32> = partitions.map(|partition| partition.id()).collect();
        if partitions.is_empty() {
            return Err(AuditError::NoTopic(topic.to_owned()));
        }
        Ok(partitions)
    }

    fn watermarks(
        &self,
        topic: &str,
        isolation: Isolation,
    ) -> Result<impl Iterator<Item = (i32, (i64, i64))> + use<>, AuditError> {
        let mut marks = Vec::new();
        for partition in self.partitions(topic, isolation)? {
            let what = format_args!("read the offsets of {topic}-{partition}");
            let both = self.client.patiently(what, || -> Result<_, KafkaError> {
                self.consumer(isolation)
                    .fetch_watermarks(topic, partition, CALL)
            })?;
            marks.push((partition, both));
        }
        Ok(marks.into_iter())
    }
}
