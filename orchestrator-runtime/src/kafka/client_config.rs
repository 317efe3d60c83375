//! What every librdkafka client is told: our defaults, overridden by the user's properties, overridden by what a promise
//! rests on. Called by whoever creates a client and by the configuration's rules; creates none itself.

use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;

use crate::config::properties::shown;
use crate::config::{Config, Passthrough};
use crate::identity::Identity;
use crate::planted::{Bug, planted};

/// Properties of the classic group protocol that KIP-848 moved to the broker; librdkafka refuses them there.
pub(crate) const CLASSIC_ONLY: &[&str] = &[
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "partition.assignment.strategy",
    "group.protocol.type",
];

/// Defaults of every client.
const COMMON: &[(&str, &str)] = &[
    // send_offsets_to_transaction is bounded by this, not by its own time-out.
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("socket.keepalive.enable", "true"),
    // A broker that comes back is found within two seconds instead of ten.
    ("reconnect.backoff.max.ms", "2000"),
];

/// Defaults of consumers.
const CONSUMER: &[(&str, &str)] = &[
    // librdkafka's default second after a full queue costs two thirds of the throughput.
    ("fetch.queue.backoff.ms", "2"),
    ("queued.min.messages", "100000"),
    // Answered at once when there is data; a partition that joins waits for the request under way.
    ("fetch.wait.max.ms", "100"),
    ("fetch.message.max.bytes", "1048576"),
    // The poll thread waits for nobody, so a minute without a poll is a dead process.
    ("max.poll.interval.ms", "60000"),
];

/// Defaults of consumers in the classic group protocol.
const CLASSIC: &[(&str, &str)] = &[
    ("partition.assignment.strategy", "cooperative-sticky"),
    // A killed process holds its partitions for this long.
    ("session.timeout.ms", "10000"),
    ("heartbeat.interval.ms", "1000"),
];

/// Defaults of producers.
const PRODUCER: &[(&str, &str)] = &[
    ("transaction.timeout.ms", "15000"),
    // Nothing waits for it, as the flush before a commit ends it; until then it keeps batches together.
    ("linger.ms", "50"),
    ("batch.size", "1000000"),
    ("compression.type", "lz4"),
    // Java's default partitioner: what is keyed alike lands alike.
    ("partitioner", "murmur2_random"),
    // Offsets of transactions back to back: 10/s at librdkafka's 100 ms, 650/s at 1 ms.
    ("retry.backoff.ms", "2"),
    ("retry.backoff.max.ms", "100"),
    // Follows retry.backoff.ms if not set, and would ask for metadata every 2 ms while a leader is missing.
    ("topic.metadata.refresh.fast.interval.ms", "100"),
    // A topic that a record chose and that does not exist is that record's failure, not a new topic.
    ("allow.auto.create.topics", "false"),
];

/// The longest that message.timeout.ms and its like are by default, below any usual transaction.timeout.ms.
const MAX_WAIT_MS: u64 = 10_000;

/// The settings of a worker's consumer. With a name that a restart has too it is a static member: a killed process is
/// back in its place as soon as it is started again. A random name would only leave a ghost behind.
pub(crate) fn consumer(config: &Config, identity: &Identity, worker: usize) -> ClientConfig {
    let mut client = consumer_named(config, &identity.transactional_id(worker));
    if identity.stable {
        client.set(
            "group.instance.id",
            format!("{}-{worker}", identity.instance),
        );
    }
    if planted(Bug::CommittedByConsumer) {
        client.set("enable.auto.commit", "true");
        client.set("enable.auto.offset.store", "true");
        client.set("auto.commit.interval.ms", "100");
    }
    client
}

/// The settings of a consumer of that client id.
pub(crate) fn consumer_named(config: &Config, client_id: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    defaults(&mut client, COMMON);
    defaults(&mut client, CONSUMER);
    if !config.kafka.uses_consumer_protocol() {
        defaults(&mut client, CLASSIC);
    }
    client.set("client.id", client_id);
    given(&mut client, &config.kafka.common);
    given(&mut client, &config.kafka.consumer);
    forced(
        &mut client,
        &[
            ("bootstrap.servers", &config.kafka.bootstrap_servers),
            ("group.id", &config.kafka.group_id),
            // Also makes librdkafka ask for stable offsets (KIP-447).
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("check.crcs", "false"),
            (
                "queued.max.messages.kbytes",
                &kbytes(config.batch.prefetch_max_bytes),
            ),
        ],
    );
    client
}

/// The settings of a transactional producer.
pub(crate) fn producer(config: &Config, transactional_id: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    defaults(&mut client, COMMON);
    defaults(&mut client, PRODUCER);
    client.set("client.id", transactional_id);
    // All that a unit waits for must end before its transaction does, also when the user chose a shorter one.
    let wait = (given_transaction_timeout(config) * 2 / 3)
        .min(MAX_WAIT_MS)
        .to_string();
    for property in [
        "message.timeout.ms",
        "topic.metadata.propagation.max.ms",
        "socket.timeout.ms",
    ] {
        client.set(property, &wait);
    }
    given(&mut client, &config.kafka.common);
    given(&mut client, &config.kafka.producer);
    forced(
        &mut client,
        &[
            ("bootstrap.servers", &config.kafka.bootstrap_servers),
            ("transactional.id", transactional_id),
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("delivery.report.only.error", "true"),
            ("log.connection.close", "true"),
            (
                "queue.buffering.max.kbytes",
                &kbytes(config.batch.producer_queue_max_bytes),
            ),
        ],
    );
    client
}

/// The settings of a client that only asks and administers.
pub(crate) fn admin(config: &Config) -> ClientConfig {
    let mut client = ClientConfig::new();
    defaults(&mut client, COMMON);
    client.set("client.id", format!("{}-admin", config.kafka.group_id));
    given(&mut client, &config.kafka.common);
    forced(
        &mut client,
        &[("bootstrap.servers", &config.kafka.bootstrap_servers)],
    );
    client
}

/// The time limits that follow from what the clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timings {
    /// When the broker aborts a transaction.
    pub(crate) transaction_timeout: Duration,
    /// When a unit of work must be committed or given up; leaves a fifth of the transaction's time for the abort.
    pub(crate) unit_deadline: Duration,
    /// When a request without an answer fails.
    pub(crate) socket_timeout: Duration,
    /// When the group gives up on a consumer that does not poll.
    pub(crate) max_poll_interval: Duration,
}

impl Timings {
    pub(crate) fn of(config: &Config) -> Self {
        let (consumer, producer) = (consumer_named(config, ""), producer(config, ""));
        let read = |client: &ClientConfig, property: &str, otherwise: u64| {
            let text = client.get(property).and_then(|text| text.parse().ok());
            Duration::from_millis(text.unwrap_or(otherwise))
        };
        let transaction_timeout = read(&producer, "transaction.timeout.ms", 15_000);
        Timings {
            transaction_timeout,
            unit_deadline: transaction_timeout * 4 / 5,
            socket_timeout: read(&producer, "socket.timeout.ms", MAX_WAIT_MS),
            max_poll_interval: read(&consumer, "max.poll.interval.ms", 60_000),
        }
    }
}

/// A client's settings as text with secrets masked: rdkafka's own `Debug` shows keys and tokens.
pub(crate) struct Redacted<'a>(pub(crate) &'a ClientConfig);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties = self.0.config_map();
        let masked = properties
            .iter()
            .map(|(property, value)| (property, shown(property, value)));
        f.debug_map().entries(masked).finish()
    }
}

fn given_transaction_timeout(config: &Config) -> u64 {
    let property = "transaction.timeout.ms";
    let given = config
        .kafka
        .producer
        .get(property)
        .or_else(|| config.kafka.common.get(property));
    given.and_then(|text| text.parse().ok()).unwrap_or(15_000)
}

fn defaults(client: &mut ClientConfig, properties: &[(&str, &str)]) {
    for (property, value) in properties {
        client.set(*property, *value);
    }
}

fn given(client: &mut ClientConfig, properties: &Passthrough) {
    for (property, value) in properties.iter() {
        client.set(property, value);
    }
}

fn forced(client: &mut ClientConfig, properties: &[(&str, &str)]) {
    defaults(client, properties);
}

/// librdkafka counts its queues in KiB.
fn kbytes(bytes: usize) -> String {
    (bytes / 1024).max(1).to_string()
}

#[cfg(test)]
mod tests;
