//! Writes the test kit's seeded orders to a topic, as fast as it can. Called by `main` as `load-test fill`, and by
//! whoever needs a backlog. The same seed and count give the same records, whatever the machine; must never leave a
//! topic short without saying so.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use orchestrator_testkit::orders::Orders;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::topics;

const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);

/// What to write, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct FillArgs {
    /// Brokers to connect to, host:port[,host:port..]
    #[arg(long, env = "ORCH_BOOTSTRAP_SERVERS")]
    pub(crate) bootstrap_servers: String,
    /// Topic to write to; created if it does not exist
    #[arg(long)]
    pub(crate) topic: String,
    /// Orders to write
    #[arg(long)]
    pub(crate) num_records: u64,
    /// Bytes of one order; below about 300 it is cut off, which only a program that copies can take
    #[arg(long, default_value_t = 316)]
    pub(crate) record_size: usize,
    /// Partitions of a topic that has to be created
    #[arg(long, default_value_t = 8)]
    pub(crate) partitions: i32,
    /// The same seed gives the same orders
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The share of orders that cannot be enriched, 0.0 to 1.0
    #[arg(long, default_value_t = 0.0)]
    pub(crate) poison: f64,
    /// The x-fault header of some orders, transient:1 say: the example app fails by it if EXAMPLE_FAULTS=true
    #[arg(long)]
    pub(crate) fault: Option<String>,
    /// Every how many orders one has it
    #[arg(long, default_value_t = 1000)]
    pub(crate) fault_every: u64,
}

/// Writes the orders and checks by the topic's offsets that all are there.
pub(crate) fn run(args: &FillArgs) -> Result<()> {
    let servers = &args.bootstrap_servers;
    topics::create(servers, &args.topic, args.partitions)?;
    let before = topics::records(servers, &args.topic)?;

    let producer: BaseProducer = producer_config(servers)
        .set("linger.ms", "50")
        .create()
        .context("producer")?;
    let orders = Orders::new(args.seed)
        .bytes(args.record_size)
        .poison(args.poison);
    for order in orders.range(0..args.num_records) {
        // Orders are ASCII.
        let value = order.value.get(..args.record_size).unwrap_or(&order.value);
        let mut record = BaseRecord::to(&args.topic)
            .key(order.key.as_str())
            .payload(value);
        record.headers = args
            .fault
            .as_deref()
            .filter(|_| (order.index + 1).is_multiple_of(args.fault_every))
            .map(|fault| {
                OwnedHeaders::new().insert(Header {
                    key: "x-fault",
                    value: Some(fault),
                })
            });
        send(&producer, record)?;
    }
    producer.flush(FLUSH_TIMEOUT).context("flush")?;

    let written = topics::records(servers, &args.topic)? - before;
    ensure!(
        written == args.num_records,
        "topic {} grew by {written} records instead of {}: is somebody else writing, or did the broker refuse some?",
        args.topic,
        args.num_records
    );
    Ok(())
}

/// What every producer of orders has.
pub(crate) fn producer_config(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("batch.size", "1000000")
        .set("delivery.report.only.error", "true");
    config
}

/// Hands a record to librdkafka; waits while its queue is full.
pub(crate) fn send(producer: &BaseProducer, mut record: BaseRecord<'_, str, str>) -> Result<()> {
    loop {
        record = match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                producer.poll(Duration::ZERO);
                thread::sleep(QUEUE_FULL_WAIT);
                record
            }
            Err((error, _)) => return Err(error).context("send"),
        };
    }
}
