//! Topics and offsets from the outside: what a test sets up first and looks up last.
//!
//! Used by tests, demo and load harness. It must never join a group or commit an offset, so that
//! looking changes nothing.

mod groups;
mod offsets;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError as ClientError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

const CALL_DEADLINE: Duration = Duration::from_secs(60);
const METADATA_PAUSE: Duration = Duration::from_millis(10);

/// Why a request to the cluster failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {reason}")]
pub struct AdminError {
    what: String,
    reason: String,
}

fn failed(what: impl fmt::Display) -> impl FnOnce(ClientError) -> AdminError {
    move |reason| AdminError {
        what: what.to_string(),
        reason: reason.to_string(),
    }
}

/// A name that no other test uses, now or in an earlier run: `prefix-<run>-<n>`.
///
/// ```
/// use orchestrator_testkit::admin::fresh;
/// assert_ne!(fresh("orders"), fresh("orders"));
/// ```
pub fn fresh(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static RUN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let run = RUN.get_or_init(|| format!("{:08x}", fastrand::u32(..)));
    format!("{prefix}-{run}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An administrator of one cluster. Cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), orchestrator_testkit::admin::AdminError> {
/// use orchestrator_testkit::{admin::{Admin, fresh}, kafka::Kafka};
/// let admin = Admin::new(Kafka::shared().bootstrap_servers())?;
/// let topic = fresh("orders");
/// admin.create_topic(&topic, 3, &[("max.message.bytes", "2000")]).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Admin {
    bootstrap: String,
    client: Arc<AdminClient<DefaultClientContext>>,
    options: Arc<AdminOptions>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

impl Admin {
    /// Connects lazily: succeeds even where nothing answers yet.
    pub fn new(bootstrap: &str) -> Result<Self, AdminError> {
        let client = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .map_err(failed("create an admin client"))?;
        let options = AdminOptions::new()
            .request_timeout(Some(CALL_DEADLINE))
            .operation_timeout(Some(CALL_DEADLINE));
        let (client, options) = (Arc::new(client), Arc::new(options));
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            client,
            options,
        })
    }

    /// Creates a topic and waits until its partitions have leaders.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<(), AdminError> {
        let what = format!("create the topic {name}");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let results = self.client.create_topics(&[topic], &self.options).await;
        check(&what, results.map_err(failed(&what))?)?;
        self.wait_for_partitions(name, partitions).await
    }

    /// Deletes a topic; readers may see it for a moment longer.
    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        let what = format!("delete the topic {name}");
        let results = self.client.delete_topics(&[name], &self.options).await;
        check(&what, results.map_err(failed(&what))?)
    }

    /// Adds partitions until there are `partitions`, and waits until they have leaders.
    pub async fn grow_topic(&self, name: &str, partitions: i32) -> Result<(), AdminError> {
        let what = format!("grow the topic {name}");
        let count = usize::try_from(partitions).unwrap_or_default();
        let new = NewPartitions::new(name, count);
        let results = self.client.create_partitions(&[new], &self.options).await;
        check(&what, results.map_err(failed(&what))?)?;
        self.wait_for_partitions(name, partitions).await
    }

    /// Replaces the dynamic configuration of a topic by `configs`.
    pub async fn configure_topic(
        &self,
        name: &str,
        configs: &[(&str, &str)],
    ) -> Result<(), AdminError> {
        let what = format!("configure the topic {name}");
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in configs {
            change = change.set(key, value);
        }
        let results = self.client.alter_configs(&[change], &self.options).await;
        for result in results.map_err(failed(&what))? {
            result.map_err(|(_, code)| refused(&what, code))?;
        }
        Ok(())
    }

    /// Deletes the records of a partition below `before`, as retention would.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: i32,
        before: i64,
    ) -> Result<(), AdminError> {
        let what = format!("delete records of {topic}-{partition}");
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(topic, partition, Offset::Offset(before))
            .map_err(failed(&what))?;
        let done = self.client.delete_records(&offsets, &self.options).await;
        for element in done.map_err(failed(&what))?.elements() {
            element.error().map_err(failed(&what))?;
        }
        Ok(())
    }

    /// Deletes a group that has no members.
    pub async fn delete_group(&self, group: &str) -> Result<(), AdminError> {
        let what = format!("delete the group {group}");
        let results = self.client.delete_groups(&[group], &self.options).await;
        check(&what, results.map_err(failed(&what))?)
    }

    /// How many partitions a topic has; 0 if there is no such topic.
    pub async fn partitions(&self, topic: &str) -> Result<i32, AdminError> {
        let (admin, topic) = (self.clone(), topic.to_owned());
        blocking(move || admin.partition_count(&topic)).await
    }

    async fn wait_for_partitions(&self, topic: &str, partitions: i32) -> Result<(), AdminError> {
        let give_up = Instant::now() + CALL_DEADLINE;
        while self.partitions(topic).await? < partitions {
            if Instant::now() >= give_up {
                return Err(AdminError {
                    what: format!("see {partitions} partitions of {topic}"),
                    reason: format!("no leaders within {CALL_DEADLINE:?}"),
                });
            }
            tokio::time::sleep(METADATA_PAUSE).await;
        }
        Ok(())
    }

    /// Partitions that have a leader.
    fn partition_count(&self, topic: &str) -> Result<i32, AdminError> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(Some(topic), CALL_DEADLINE)
            .map_err(failed(format_args!("read the partitions of {topic}")))?;
        let partitions = metadata.topics().iter().filter(|t| t.name() == topic);
        let led = partitions
            .flat_map(|t| t.partitions())
            .filter(|p| p.leader() >= 0)
            .count();
        Ok(i32::try_from(led).unwrap_or(i32::MAX))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AdminError> + Send + 'static,
) -> Result<T, AdminError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(AdminError {
            what: "finish a request".to_owned(),
            reason: e.to_string(),
        })
    })
}

fn check(
    what: &str,
    results: Vec<Result<String, (String, RDKafkaErrorCode)>>,
) -> Result<(), AdminError> {
    results
        .into_iter()
        .try_for_each(|r| r.map(drop).map_err(|(_, code)| refused(what, code)))
}

fn refused(what: &str, code: RDKafkaErrorCode) -> AdminError {
    AdminError {
        what: what.to_owned(),
        reason: code.to_string(),
    }
}
