//! What the tests of the producer stand on: topics, a group with a live member, units of work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_runtime::core::ports::{
    Done, Epoch, Fate, SessionFailure, SliceFate, Unit, UnitSlice,
};
use orchestrator_runtime::core::{Output, Record, SourcePartition, Topic};
use orchestrator_runtime::kafka::committer::{CommitterSettings, KafkaCommitter};
use orchestrator_runtime::kafka::membership::Membership;
use orchestrator_runtime::kafka::producer::{CommittedLookup, KafkaProducer, ProducerSettings};
use orchestrator_runtime::kafka::stop::StopSignal;
use orchestrator_runtime::kafka::transactor::{NextOffset, Transactor};
use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::reader::{Isolation, ReadRecord, Until, read_all};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// How often a condition is looked at that nobody tells of.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(crate) struct Bed {
    pub(crate) bootstrap: String,
    pub(crate) admin: Admin,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) group: String,
    pub(crate) id: String,
    pub(crate) membership: Arc<Membership<ConsumerGroupMetadata>>,
    pub(crate) consumer: BaseConsumer,
}

impl Bed {
    /// Topics, and a group with one member that owns all three partitions of the source.
    pub(crate) async fn new(bootstrap: &str, target_config: &[(&str, &str)]) -> Self {
        let admin = Admin::new(bootstrap).unwrap();
        let (source, target, group) = (fresh("source"), fresh("target"), fresh("group"));
        admin.create_topic(&source, 3, &[]).await.unwrap();
        admin.create_topic(&target, 1, target_config).await.unwrap();
        let bed = Self {
            bootstrap: bootstrap.to_owned(),
            admin,
            consumer: member(bootstrap, &group),
            membership: Arc::default(),
            id: fresh("producer"),
            source,
            target,
            group,
        };
        bed.consumer.subscribe(&[&bed.source]).unwrap();
        poll_until(&[&bed.consumer], || owned(&bed.consumer) == 3);
        bed.membership.refresh(bed.consumer.group_metadata());
        for n in 0..3 {
            let epoch = bed.membership.next_epoch();
            bed.membership.own(bed.partition(n), epoch, 0);
        }
        bed
    }

    pub(crate) fn partition(&self, n: i32) -> SourcePartition {
        SourcePartition::new(self.source.as_str(), n)
    }

    pub(crate) fn next_offset(&self, n: i32, next: i64) -> NextOffset {
        NextOffset {
            partition: self.partition(n),
            next,
            mark: None,
        }
    }

    pub(crate) fn epoch(&self, n: i32) -> Epoch {
        self.membership.owned()[&self.partition(n)].epoch
    }

    pub(crate) fn metadata(&self) -> ConsumerGroupMetadata {
        self.consumer.group_metadata().unwrap()
    }

    /// The settings that the runtime gives its producers.
    pub(crate) fn client(&self) -> ClientConfig {
        client(&self.bootstrap, &self.id)
    }

    pub(crate) fn settings(&self) -> ProducerSettings {
        ProducerSettings {
            client: self.client(),
            target: Some(Topic::new(&self.target)),
            committed: committed(&self.bootstrap, &self.group),
            batch_limit: Box::new(|_| Ok(None)),
            stop: StopSignal::default(),
        }
    }

    pub(crate) fn transactor(&self, settings: ProducerSettings) -> Transactor<KafkaProducer> {
        Transactor::new(KafkaProducer::new(settings), self.membership.clone(), ())
    }

    pub(crate) fn committer(&self) -> KafkaCommitter {
        self.committer_with(self.client())
    }

    pub(crate) fn committer_with(&self, client: ClientConfig) -> KafkaCommitter {
        let mut admin = ClientConfig::new();
        admin.set("bootstrap.servers", &self.bootstrap);
        let settings = CommitterSettings {
            producer: client,
            admin,
            target: Some(Topic::new(&self.target)),
            written: BTreeSet::from([Topic::new(&self.target)]),
            committed: committed(&self.bootstrap, &self.group),
            fenced: Box::new(SessionFailure::Fenced),
        };
        KafkaCommitter::start(settings, self.membership.clone(), ()).unwrap()
    }

    /// A part of a unit: one record from `from` on for each of the outputs.
    pub(crate) fn slice(&self, n: i32, from: i64, outputs: Vec<Output>) -> UnitSlice {
        let next = from + i64::try_from(outputs.len()).unwrap();
        let done = (from..).zip(outputs).map(|(offset, output)| Done {
            record: Record::builder(self.source.as_str(), n, offset)
                .key(format!("key {offset}"))
                .timestamp_ms(1_000 + offset)
                .header("traceparent", "00-trace")
                .header("other", "stays")
                .build(),
            fate: Fate::Outputs(output.into()),
        });
        UnitSlice {
            partition: self.partition(n),
            epoch: self.epoch(n),
            from,
            next,
            done: done.collect(),
            mark: None,
        }
    }

    pub(crate) async fn seen(&self, isolation: Isolation) -> Vec<ReadRecord> {
        read_all(
            &self.bootstrap,
            &[&self.target],
            isolation,
            Until::End,
            MINUTE,
        )
        .await
        .unwrap()
    }

    pub(crate) async fn values(&self) -> Vec<String> {
        let seen = self.seen(Isolation::Committed).await;
        seen.iter().map(|r| r.value_text().to_owned()).collect()
    }

    pub(crate) async fn committed(&self) -> BTreeMap<i32, i64> {
        self.admin
            .committed(&self.group, &self.source)
            .await
            .unwrap()
    }
}

pub(crate) fn client(bootstrap: &str, id: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    for (key, value) in [
        ("bootstrap.servers", bootstrap),
        ("transactional.id", id),
        ("transaction.timeout.ms", "15000"),
        ("message.timeout.ms", "10000"),
        ("topic.metadata.propagation.max.ms", "1000"),
        ("socket.timeout.ms", "10000"),
        ("reconnect.backoff.max.ms", "2000"),
        ("linger.ms", "5"),
        ("batch.size", "1000000"),
        ("compression.type", "lz4"),
        ("partitioner", "murmur2_random"),
        ("retry.backoff.ms", "2"),
        ("retry.backoff.max.ms", "100"),
        ("topic.metadata.refresh.fast.interval.ms", "100"),
        ("allow.auto.create.topics", "false"),
        ("acks", "all"),
        ("delivery.report.only.error", "true"),
    ] {
        client.set(key, value);
    }
    client
}

/// A member of a group.
pub(crate) fn member(bootstrap: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("reconnect.backoff.max.ms", "500")
        .create()
        .unwrap()
}

pub(crate) fn owned(consumer: &BaseConsumer) -> usize {
    consumer.assignment().unwrap().count()
}

pub(crate) fn poll_until(consumers: &[&BaseConsumer], done: impl Fn() -> bool) {
    let give_up = Instant::now() + MINUTE;
    while !done() {
        assert!(Instant::now() < give_up, "the group does not settle");
        for consumer in consumers {
            drop(consumer.poll(Duration::from_millis(20)));
        }
    }
}

/// Committed offsets, by a consumer outside of the group's membership.
pub(crate) fn committed(bootstrap: &str, group: &str) -> CommittedLookup {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    Box::new(move |partitions| {
        let mut list = rdkafka::TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&partition.topic, partition.partition);
        }
        let offsets = consumer
            .committed_offsets(list, Duration::from_secs(5))
            .map_err(|error| error.to_string())?;
        let known = offsets.elements().into_iter().map(|element| {
            let next = match element.offset() {
                rdkafka::Offset::Offset(next) => Some(next),
                _ => None,
            };
            (
                SourcePartition::new(element.topic(), element.partition()),
                next,
            )
        });
        Ok(known.collect())
    })
}

pub(crate) fn unit(slices: Vec<UnitSlice>) -> Unit {
    Unit { slices }
}

pub(crate) fn values(range: std::ops::Range<usize>) -> Vec<Output> {
    range.map(|n| Output::new(format!("value {n}"))).collect()
}

/// Bytes that no codec makes smaller.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut random = 88_172_645_463_325_252_u64;
    let next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[track_caller]
pub(crate) fn assert_refused(fate: &SliceFate, topic: &str, permanent: bool) {
    match fate {
        SliceFate::Refused {
            topic: refused,
            permanent: p,
            ..
        } => assert_eq!((refused.as_str(), *p), (topic, permanent), "{fate:?}"),
        other => panic!("not refused: {other:?}"),
    }
}
