//! The consumer of a session: how it is created, and how others than the poll thread find the one of the moment.
//! Used by the session, and by the poll thread when it needs a second one. It never polls.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::ffi::RecordQueue;
use super::gather::Gather;
use super::rebalance::Context;

/// The consumer of the moment, for those who may ask it something. Weak: the poll thread is the one that ends it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current(Arc<Mutex<Weak<BaseConsumer<Context>>>>);

impl Current {
    /// The consumer, while there is one.
    pub(crate) fn get(&self) -> Option<Arc<BaseConsumer<Context>>> {
        let current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.upgrade()
    }

    fn set(&self, consumer: &Arc<BaseConsumer<Context>>) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::downgrade(consumer);
    }
}

/// A consumer, and the queue its records go to.
pub(crate) struct Member {
    /// Before the consumer: fields are dropped in order, and the queue must go first.
    pub(crate) queue: Arc<RecordQueue>,
    pub(crate) consumer: Arc<BaseConsumer<Context>>,
}

/// What consumers of one session are made from.
pub(crate) struct Blueprint {
    pub(crate) config: ClientConfig,
    pub(crate) topics: Vec<String>,
    pub(crate) context: Context,
    pub(crate) current: Current,
}

impl Blueprint {
    /// Creates a consumer and makes it the current one. Needs no broker; joins no group yet.
    pub(crate) fn create(&self) -> KafkaResult<Member> {
        let gather = &self.context.gather;
        let mut consumer: BaseConsumer<Context> =
            BaseConsumer::from_config_and_context(&self.config, self.context.clone())?;
        consumer.set_nonempty_callback(bell(gather));
        let queue = RecordQueue::new(&consumer, bell(gather))
            .ok_or(KafkaError::Global(RDKafkaErrorCode::CriticalSystemResource))?;
        let consumer = Arc::new(consumer);
        self.current.set(&consumer);
        Ok(Member {
            queue: Arc::new(queue),
            consumer,
        })
    }
}

/// Subscribes a consumer. To do so again is harmless, and has it send a heartbeat at once (KIP-848).
pub(crate) fn subscribe<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &[String],
) -> KafkaResult<()> {
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics)
}

fn bell(gather: &Arc<Gather>) -> impl Fn() + Send + Sync + 'static {
    let gather = Arc::clone(gather);
    move || gather.wake_poller()
}
