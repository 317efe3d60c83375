//! Topics as the harness needs them: create, delete, count, read back. Called by `fill` and `compare`;
//! never part of what is timed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use orchestrator_testkit::audit::{AuditError, Client, Cluster, Tail};
use orchestrator_testkit::reader::Isolation;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

const BROKER_TIMEOUT: Duration = Duration::from_secs(15);

/// Creates the topic; one that exists stays as it is.
pub(crate) fn create(servers: &str, topic: &str, partitions: i32) -> Result<()> {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    let results = admin(servers, async |admin, options| {
        admin.create_topics([&new], options).await
    })?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => bail!("create topic {topic}: {code}"),
        }
    }
    // The answer comes before every client can see the topic.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()?;
    let started = Instant::now();
    // A leader that is named need not know it yet.
    while let Err(error) = offsets_between_ends(&consumer, topic) {
        if started.elapsed() > BROKER_TIMEOUT {
            return Err(error.context(format!("topic {topic} was created but cannot be read")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Deletes the topics.
pub(crate) fn delete(servers: &str, topics: &[String]) -> Result<()> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let results = admin(servers, async |admin, options| {
        admin.delete_topics(&names, options).await
    })?;
    for result in results {
        result.map_err(|(topic, code)| anyhow::anyhow!("delete topic {topic}: {code}"))?;
    }
    Ok(())
}

fn admin<T>(
    servers: &str,
    call: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> Result<T, KafkaError>,
) -> Result<T> {
    let client: AdminClient<_> = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()?;
    let options = AdminOptions::new()
        .request_timeout(Some(BROKER_TIMEOUT))
        .operation_timeout(Some(BROKER_TIMEOUT));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime
        .block_on(call(&client, &options))
        .with_context(|| format!("broker {servers}"))
}

/// Partition numbers of a topic that exists.
pub(crate) fn partitions_of(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), BROKER_TIMEOUT)?;
    let found = metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic && found.error().is_none());
    let partitions = found.map_or(&[][..], |found| found.partitions());
    if partitions.is_empty() {
        bail!("no topic {topic}");
    }
    Ok(partitions.iter().map(|partition| partition.id()).collect())
}

/// Offsets between the ends of a topic's partitions: its records, where it holds no transactions.
pub(crate) fn records(servers: &str, topic: &str) -> Result<u64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()?;
    offsets_between_ends(&consumer, topic)
}

fn offsets_between_ends(consumer: &BaseConsumer, topic: &str) -> Result<u64> {
    let mut records = 0;
    for partition in partitions_of(consumer, topic)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, BROKER_TIMEOUT)?;
        records += u64::try_from(high - low)?;
    }
    Ok(records)
}

/// What a read_committed reader finds in a topic: how many records, and a sum over them that does not
/// depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) records: u64,
    sum: u64,
}

/// Reads a whole topic, to its end as it is now.
pub(crate) fn contents(servers: &str, topic: &str) -> Result<Contents> {
    let client = Client::new(servers);
    let ends = Cluster::new(&client, "load-test-read-back")?.ends(topic, Isolation::Committed)?;
    let mut contents = Contents::default();
    let tail = Tail::new(&client, topic)?;
    tail.read::<AuditError>(&mut BTreeMap::new(), &ends, |record| {
        let mut hasher = DefaultHasher::new();
        (record.key, record.value).hash(&mut hasher);
        contents.records += 1;
        contents.sum = contents.sum.wrapping_add(hasher.finish());
        Ok(())
    })?;
    Ok(contents)
}
