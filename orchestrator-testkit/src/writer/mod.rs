//! A fast loader: writes records and says where each of them lies.
//!
//! Used by tests, demo and load harness to fill source topics. It must never lose a record silently:
//! it waits for every delivery, and one failure fails the whole write.

mod deliveries;
mod record;

use std::sync::PoisonError;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

pub use record::{Position, WriteRecord};

use deliveries::Deliveries;

const DELIVERY_DEADLINE: Duration = Duration::from_secs(60);
const TRANSACTION_DEADLINE: Duration = Duration::from_secs(30);
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(1);

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its records become visible.
    Commit,
    /// Its records stay in the log, and no read_committed reader sees them.
    Abort,
}

/// Why not everything was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The client refused, or could not do, a call.
    #[error("cannot write to the topic {topic}: {source}")]
    Client {
        /// The topic.
        topic: String,
        /// The client's error.
        source: ClientError,
    },
    /// Some records did not arrive.
    #[error(
        "{failed} of {sent} records for the topic {topic} were not delivered; the first: {first}"
    )]
    Delivery {
        /// The topic.
        topic: String,
        /// How many were handed to the client.
        sent: usize,
        /// How many did not arrive.
        failed: usize,
        /// The first error.
        first: String,
    },
    /// The writing thread panicked.
    #[error("the writing thread ended: {0}")]
    Thread(String),
}

/// Writes all records and waits until every one is on the broker; returns where each lies, in the
/// order given. Records of a partition keep their order. Dropping the future leaves a thread writing.
///
/// ```no_run
/// # async fn example() -> Result<(), orchestrator_testkit::writer::WriteError> {
/// use orchestrator_testkit::writer::{WriteRecord, write};
/// let records = (0..1000).map(|i| WriteRecord::new(format!("value {i}")).key(format!("{}", i % 7)));
/// let positions = write("127.0.0.1:9092", "orders", records).await?;
/// # Ok(()) }
/// ```
pub async fn write<I>(bootstrap: &str, topic: &str, records: I) -> Result<Vec<Position>, WriteError>
where
    I: IntoIterator<Item = WriteRecord> + Send + 'static,
{
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    on_a_thread(move || {
        let writer = Writer::open(&bootstrap, &topic, None)?;
        let sent = writer.send_all(records)?;
        writer.wait_for_deliveries(sent)
    })
    .await
}

/// Writes all records in one transaction and ends it; returns where each lies, in the order given.
pub async fn write_transaction<I>(
    bootstrap: &str,
    topic: &str,
    records: I,
    ending: Ending,
) -> Result<Vec<Position>, WriteError>
where
    I: IntoIterator<Item = WriteRecord> + Send + 'static,
{
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    on_a_thread(move || {
        let id = crate::admin::fresh("orchestrator-testkit-writer");
        let writer = Writer::open(&bootstrap, &topic, Some(&id))?;
        let client = |source| WriteError::Client {
            topic: topic.clone(),
            source,
        };
        let producer = &writer.producer;
        producer
            .init_transactions(TRANSACTION_DEADLINE)
            .map_err(client)?;
        producer.begin_transaction().map_err(client)?;
        let sent = writer.send_all(records)?;
        // Before an abort too: what is to be seen is aborted records, not records never sent.
        let positions = writer.wait_for_deliveries(sent)?;
        match ending {
            Ending::Commit => producer.commit_transaction(TRANSACTION_DEADLINE),
            Ending::Abort => producer.abort_transaction(TRANSACTION_DEADLINE),
        }
        .map_err(client)?;
        Ok(positions)
    })
    .await
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
) -> Result<T, WriteError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(WriteError::Thread(e.to_string())))
}

struct Writer {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
}

impl Writer {
    fn open(bootstrap: &str, topic: &str, transactional: Option<&str>) -> Result<Self, WriteError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "200000")
            .set("message.timeout.ms", "50000")
            // A topic that does not exist is an error soon, not after 30 s.
            .set("topic.metadata.propagation.max.ms", "3000")
            // A topic may grow while it is written to.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "500");
        if let Some(id) = transactional {
            config
                .set("transactional.id", id)
                .set("transaction.timeout.ms", "55000");
        }
        let producer = config
            .create_with_context(Deliveries::default())
            .map_err(|source| WriteError::Client {
                topic: topic.to_owned(),
                source,
            })?;
        Ok(Self {
            producer,
            topic: topic.to_owned(),
        })
    }

    fn send_all(
        &self,
        records: impl IntoIterator<Item = WriteRecord>,
    ) -> Result<usize, WriteError> {
        let mut sent = 0;
        for (index, record) in records.into_iter().enumerate() {
            let mut outgoing = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, index);
            outgoing.partition = record.partition;
            outgoing.timestamp = record.timestamp;
            outgoing.key = record.key.as_deref();
            outgoing.payload = record.value.as_deref();
            if !record.headers.is_empty() {
                let start = OwnedHeaders::new_with_capacity(record.headers.len());
                let insert = |all: OwnedHeaders, (key, value): &(String, Option<Vec<u8>>)| {
                    all.insert(Header {
                        key,
                        value: value.as_ref(),
                    })
                };
                outgoing.headers = Some(record.headers.iter().fold(start, insert));
            }
            while let Err((error, back)) = self.producer.send(outgoing) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(WriteError::Client {
                        topic: self.topic.clone(),
                        source: error,
                    });
                }
                outgoing = back;
                std::thread::sleep(QUEUE_FULL_PAUSE);
            }
            sent += 1;
        }
        Ok(sent)
    }

    fn wait_for_deliveries(&self, sent: usize) -> Result<Vec<Position>, WriteError> {
        let Deliveries { state, changed } = &**self.producer.context();
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = changed
            .wait_timeout_while(state, DELIVERY_DEADLINE, |s| s.delivered + s.failed < sent)
            .unwrap_or_else(PoisonError::into_inner);
        if state.delivered == sent {
            return Ok(std::mem::take(&mut state.positions));
        }
        Err(WriteError::Delivery {
            topic: self.topic.clone(),
            sent,
            failed: sent - state.delivered,
            first: state
                .first_error
                .take()
                .unwrap_or_else(|| format!("no report within {DELIVERY_DEADLINE:?}")),
        })
    }
}
