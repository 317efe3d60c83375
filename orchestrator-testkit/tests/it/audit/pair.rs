//! A source, a target and a dead-letter queue, and a program's part played by hand: well, or badly.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::audit::{Auditor, Client, Identity, Kind, Scope, Verdict, audit};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::writer::{Ending, WriteRecord, write, write_transaction};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const MINUTE: Duration = Duration::from_secs(60);

/// Topics of one test; the source has two partitions, the others one.
pub(super) struct Pair {
    pub(super) bootstrap: &'static str,
    pub(super) source: String,
    pub(super) target: String,
    pub(super) letters: String,
    pub(super) group: String,
}

/// Record `n` of a partition of the source.
pub(super) fn name(partition: i32, n: i64) -> String {
    format!("{partition}/{n}")
}

impl Pair {
    /// With records `0..records` in each partition of the source.
    pub(super) async fn new(records: i64) -> Self {
        let pair = Self {
            bootstrap: Kafka::shared().bootstrap_servers(),
            source: fresh("audit"),
            target: fresh("audit-out"),
            letters: fresh("audit-dlq"),
            group: fresh("audit-group"),
        };
        let admin = Admin::new(pair.bootstrap).unwrap();
        for (topic, partitions) in [(&pair.source, 2), (&pair.target, 1), (&pair.letters, 1)] {
            admin.create_topic(topic, partitions, &[]).await.unwrap();
        }
        pair.send(0..records).await;
        pair
    }

    /// More records for each partition of the source, which must be the next ones.
    pub(super) async fn send(&self, range: std::ops::Range<i64>) {
        let records = [0, 1].into_iter().flat_map(move |partition| {
            let record = move |n| {
                WriteRecord::new(format!("in {n}"))
                    .key(name(partition, n))
                    .partition(partition)
            };
            range.clone().map(record)
        });
        write(self.bootstrap, &self.source, records).await.unwrap();
    }

    /// Outputs of records `range` of both partitions, in one transaction.
    pub(super) async fn come_out(&self, range: std::ops::Range<i64>, ending: Ending) {
        let names = range.flat_map(|n| [name(0, n), name(1, n)]).collect();
        self.write_outputs(names, ending).await;
    }

    pub(super) async fn write_outputs(&self, names: Vec<String>, ending: Ending) {
        let outputs = names.into_iter();
        let outputs = outputs.map(|name| WriteRecord::new("out").key(name));
        write_transaction(self.bootstrap, &self.target, outputs, ending)
            .await
            .unwrap();
    }

    pub(super) async fn dead_letter(&self, partition: i32, n: i64) {
        let letter = WriteRecord::new("in")
            .header("__streams.errors.topic", self.source.clone())
            .header("__streams.errors.partition", partition.to_string())
            .header("__streams.errors.offset", n.to_string())
            .header("orchestrator.consumer_group", self.group.clone());
        write(self.bootstrap, &self.letters, [letter])
            .await
            .unwrap();
    }

    /// Commits the offset for both partitions.
    pub(super) fn commit(&self, next: i64) {
        let consumer = self.consumer();
        consumer.commit(&self.at(next), CommitMode::Sync).unwrap();
    }

    /// The offset in both partitions.
    pub(super) fn at(&self, next: i64) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in [0, 1] {
            list.add_partition_offset(&self.source, partition, Offset::Offset(next))
                .unwrap();
        }
        list
    }

    pub(super) fn consumer(&self) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap)
            .set("group.id", &self.group)
            .create()
            .unwrap()
    }

    pub(super) fn scope(&self, client: Client) -> Scope {
        let mut scope = Scope::new(
            client,
            &self.group,
            &self.source,
            &self.target,
            Identity::Key,
        );
        scope.dead_letters = vec![self.letters.clone()];
        scope
    }

    pub(super) async fn audit(&self) -> Verdict {
        self.audit_with(Client::new(self.bootstrap)).await
    }

    pub(super) async fn audit_with(&self, client: Client) -> Verdict {
        let scope = self.scope(client);
        let done = tokio::task::spawn_blocking(|| audit(scope));
        done.await.unwrap().unwrap()
    }

    /// What the audit must find, and how often.
    #[track_caller]
    pub(super) fn assert_found(verdict: &Verdict, expected: &[(Kind, u64)]) {
        let found = verdict.findings.iter();
        let found: BTreeMap<_, _> = found.map(|found| (found.what, found.count)).collect();
        let expected = expected.iter();
        let expected: BTreeMap<_, _> = expected
            .map(|(kind, count)| (kind.what(), *count))
            .collect();
        assert_eq!(found, expected, "{verdict:?}");
    }
}

/// A transactional producer that has begun, and has sent one record that arrived.
pub(super) fn begun(pair: &Pair, key: &str) -> ThreadedProducer<DefaultProducerContext> {
    let producer = producer(pair);
    producer.begin_transaction().unwrap();
    let record = BaseRecord::to(&pair.target).key(key).payload("out");
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(MINUTE).unwrap();
    producer
}

pub(super) fn producer(pair: &Pair) -> ThreadedProducer<DefaultProducerContext> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", pair.bootstrap)
        .set("transactional.id", fresh("audit"))
        .create()
        .unwrap();
    producer.init_transactions(MINUTE).unwrap();
    producer
}

/// A pass of an auditor, away from the test's own thread.
pub(super) async fn pass(mut auditor: Auditor) -> Auditor {
    let pass = move || {
        auditor.pass().unwrap();
        auditor
    };
    tokio::task::spawn_blocking(pass).await.unwrap()
}

/// An auditor of this scope.
pub(super) async fn auditor(scope: Scope) -> Auditor {
    let open = || Auditor::new(scope).unwrap();
    tokio::task::spawn_blocking(open).await.unwrap()
}
