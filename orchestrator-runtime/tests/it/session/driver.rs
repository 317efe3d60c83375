//! Drives sessions as a worker would, and checks on the way what must always hold: chains without a break, and
//! nothing of an older epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::{Epoch, Session, SessionEvent};
use orchestrator_runtime::config::{OnOffsetLost, StartFrom};
use orchestrator_runtime::kafka::session::{GroupMembership, KafkaSession, SessionSettings};
use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::writer::{WriteRecord, write};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Everything that is waited for comes within this time, or not at all.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The two group protocols that are the user's choice, and the older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Cooperative,
    Eager,
    Kip848,
}

/// A topic and a group of its own.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) bootstrap: String,
    pub(crate) topic: String,
    pub(crate) group: String,
}

impl Place {
    pub(crate) async fn new(name: &str, partitions: i32) -> Self {
        let bootstrap = Kafka::shared().bootstrap_servers().to_owned();
        let topic = fresh(name);
        let place = Self {
            bootstrap,
            group: format!("{topic}-group"),
            topic,
        };
        place
            .admin()
            .create_topic(&place.topic, partitions, &[])
            .await
            .unwrap();
        place
    }

    pub(crate) fn admin(&self) -> Admin {
        Admin::new(&self.bootstrap).unwrap()
    }

    pub(crate) fn partition(&self, number: i32) -> SourcePartition {
        SourcePartition::new(&*self.topic, number)
    }

    /// Writes so many records to each of the partitions.
    pub(crate) async fn fill(&self, partitions: i32, each: usize) {
        let records = (0..each).flat_map(move |i| {
            (0..partitions).map(move |p| {
                WriteRecord::new(format!("value {i} of partition {p}, {:<40}", "filled"))
                    .key(format!("{i}"))
                    .header("h", "1")
                    .partition(p)
            })
        });
        write(&self.bootstrap, &self.topic, records).await.unwrap();
    }

    /// Commits an offset from outside; the group must have no members.
    pub(crate) fn commit(&self, partition: i32, offset: i64) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", &self.group)
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))
            .unwrap();
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    pub(crate) fn consumer(&self, protocol: Protocol) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", &self.group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "2")
            .set("fetch.wait.max.ms", "100")
            .set("socket.timeout.ms", "10000");
        match protocol {
            Protocol::Kip848 => config.set("group.protocol", "consumer"),
            classic => config
                .set(
                    "partition.assignment.strategy",
                    match classic {
                        Protocol::Eager => "range",
                        _ => "cooperative-sticky",
                    },
                )
                .set("session.timeout.ms", "6000")
                .set("heartbeat.interval.ms", "500"),
        };
        config
    }

    pub(crate) fn settings(&self) -> SessionSettings {
        SessionSettings {
            topics: vec![self.topic.clone()],
            start_from: StartFrom::Earliest,
            on_offset_lost: OnOffsetLost::Hold,
            batch_max_records: 10_000,
            batch_max_bytes: 16 << 20,
            revoke_patience: Duration::from_secs(10),
            close_patience: Duration::from_secs(10),
        }
    }

    pub(crate) fn start(&self) -> Driver {
        self.start_with(&self.consumer(Protocol::Cooperative), self.settings())
    }

    pub(crate) fn start_with(&self, config: &ClientConfig, settings: SessionSettings) -> Driver {
        let membership = Arc::new(GroupMembership::default());
        let session = KafkaSession::start(config, settings, Arc::clone(&membership), None).unwrap();
        session.join();
        Driver {
            session,
            membership,
            chains: BTreeMap::new(),
            read: BTreeMap::new(),
            events: Vec::new(),
        }
    }
}

/// A session and what came out of it.
pub(crate) struct Driver {
    pub(crate) session: KafkaSession,
    pub(crate) membership: Arc<GroupMembership>,
    /// Where each partition that is assigned stands.
    pub(crate) chains: BTreeMap<SourcePartition, (Epoch, i64)>,
    /// The offsets read, by partition.
    pub(crate) read: BTreeMap<SourcePartition, Vec<i64>>,
    pub(crate) events: Vec<SessionEvent>,
}

impl Driver {
    /// Takes what there is, as soon as there is something.
    pub(crate) async fn step(&mut self, want_records: bool) {
        let intake = self.session.next(want_records).await;
        for event in &intake.events {
            match event {
                SessionEvent::Assigned {
                    partition,
                    epoch,
                    position,
                    ..
                } => {
                    let chain = (*epoch, *position);
                    assert_eq!(self.chains.insert(partition.clone(), chain), None);
                    assert!(self.membership.owns(partition, *epoch));
                }
                SessionEvent::Revoked { partition } => {
                    self.chains.remove(partition);
                }
                SessionEvent::Failed(failure) => panic!("{failure:?}"),
                SessionEvent::OffsetLost { .. } | SessionEvent::CaughtUp { .. } => {}
            }
        }
        self.events.extend(intake.events);
        assert!(want_records || intake.slices.is_empty());
        for slice in intake.slices {
            let chain = self.chains.get_mut(&slice.partition).unwrap();
            assert_eq!((slice.epoch, slice.from), *chain, "{}", slice.partition);
            chain.1 = slice.next;
            assert_eq!(slice.records.last().unwrap().offset() + 1, slice.next);
            let mut last = slice.from - 1;
            for record in &slice.records {
                assert!(record.offset() > last);
                last = record.offset();
                assert_eq!(record.partition(), &slice.partition);
            }
            let offsets = slice.records.iter().map(|record| record.offset());
            self.read
                .entry(slice.partition)
                .or_default()
                .extend(offsets);
        }
    }

    /// Reads on until something is so.
    #[track_caller]
    pub(crate) fn until(
        &mut self,
        what: &str,
        is_so: impl Fn(&Self) -> bool,
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let all = async {
                while !is_so(self) {
                    self.step(true).await;
                }
            };
            let result = tokio::time::timeout(DEADLINE, all).await;
            let (chains, events) = (&self.chains, &self.events);
            result.unwrap_or_else(|_| {
                panic!("{caller}: not within {DEADLINE:?}: {what}; {chains:?} after {events:?}")
            });
        }
    }

    pub(crate) fn assigned(&self) -> usize {
        self.chains.len()
    }

    pub(crate) fn count(&self) -> usize {
        self.read.values().map(Vec::len).sum()
    }

    pub(crate) fn epochs(&self) -> BTreeMap<SourcePartition, Epoch> {
        let chains = self.chains.iter();
        chains.map(|(p, (epoch, _))| (p.clone(), *epoch)).collect()
    }

    pub(crate) fn has(&self, event: impl Fn(&SessionEvent) -> bool) -> bool {
        self.events.iter().any(event)
    }
}

/// Reads on with both until something is so.
pub(crate) async fn both_until(
    a: &mut Driver,
    b: &mut Driver,
    is_so: impl Fn(&Driver, &Driver) -> bool,
) {
    let all = async {
        while !is_so(a, b) {
            tokio::select! {
                () = a.step(true) => {}
                () = b.step(true) => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap();
}
