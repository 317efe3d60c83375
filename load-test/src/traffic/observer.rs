//! Waits at the other end: a read_committed reader of outputs and dead letters, which knows an order by the number in
//! its text. Runs on a thread of its own. What it sees says when a run is over and how long orders took; whether all
//! is right is said by the audit.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use orchestrator_testkit::orders::Order;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, TopicPartitionList};

use super::{Plan, Shared};

const POLL: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Observer {
    consumer: BaseConsumer,
    account: Account,
}

/// What came out.
struct Account {
    dead_letters: Vec<String>,
    seen: Vec<bool>,
    shared: Arc<Shared>,
}

impl Observer {
    pub(super) fn open(plan: &Plan, shared: Arc<Shared>) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &plan.servers)
            // rdkafka wants a group to poll at all; without subscribe and commit it stays unknown.
            .set("group.id", "load-test-observer")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("fetch.queue.backoff.ms", "2")
            .create()
            .context("observer")?;
        let mut all = TopicPartitionList::new();
        for list in [&plan.outputs, &plan.dead_letters] {
            for one in list.elements() {
                all.add_partition_offset(one.topic(), one.partition(), one.offset())?;
            }
        }
        consumer.assign(&all)?;
        let mut dead_letters: Vec<String> = plan
            .dead_letters
            .elements()
            .iter()
            .map(|one| one.topic().to_owned())
            .collect();
        dead_letters.dedup();
        Ok(Self {
            consumer,
            account: Account {
                dead_letters,
                seen: vec![false; usize::try_from(plan.num_records)?],
                shared,
            },
        })
    }

    pub(super) fn run(mut self) -> Result<()> {
        while !self.account.shared.stop.load(Ordering::Relaxed) {
            match self.consumer.poll(POLL) {
                Some(Ok(record)) => self.account.came_out(&record),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    bail!("the observer cannot read on: {code}")
                }
                // A broker that comes and goes: librdkafka connects again by itself.
                Some(Err(_)) | None => {}
            }
        }
        Ok(())
    }
}

impl Account {
    fn came_out(&mut self, record: &BorrowedMessage<'_>) {
        let add = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        let index = record.payload().and_then(Order::index_of);
        let found = index.and_then(|index| {
            let since = self.shared.schedule.since(index)?;
            Some((self.seen.get_mut(usize::try_from(index).ok()?)?, since))
        });
        let Some((seen, latency)) = found else {
            add(&self.shared.strange);
            return;
        };
        if self
            .dead_letters
            .iter()
            .any(|topic| topic == record.topic())
        {
            add(&self.shared.dead_letters);
        } else {
            add(&self.shared.outputs);
        }
        if std::mem::replace(seen, true) {
            add(&self.shared.repeated);
            return;
        }
        add(&self.shared.accounted);
        let mut recent = self
            .shared
            .recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *recent += latency.as_micros() as u64;
    }
}
