//! Writes seeded orders to a topic. Called by `main` as `load-test fill` and by `compare` for its source.
//! The same seed and count give the same records, whatever the machine; must never leave a topic short
//! without saying so.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::topics;

const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// Placed one millisecond apart from here on (2026-01-01), so that a run depends on no clock.
const FIRST_PLACED_AT_MS: u64 = 1_767_225_600_000;

/// What to write, and where.
#[derive(Args, Debug)]
pub(crate) struct FillArgs {
    /// Brokers to connect to, host:port[,host:port..]
    #[arg(long)]
    pub(crate) bootstrap_servers: String,
    /// Topic to write to; created if it does not exist
    #[arg(long)]
    pub(crate) topic: String,
    /// Orders to write
    #[arg(long)]
    pub(crate) num_records: u64,
    /// Bytes of one order, filled up by its note
    #[arg(long, default_value_t = 316)]
    pub(crate) record_size: usize,
    /// Partitions of a topic that has to be created
    #[arg(long, default_value_t = 8)]
    pub(crate) partitions: i32,
    /// The same seed gives the same orders
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
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

    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "50")
        .set("batch.size", "1000000")
        .set("delivery.report.only.error", "true")
        .create()
        .context("producer")?;
    let mut orders = Orders::new(args.seed, args.record_size);
    for number in 1..=args.num_records {
        let (key, value) = orders.next_order()?;
        let mut record = BaseRecord::to(&args.topic).key(key).payload(value);
        record.headers = args
            .fault
            .as_deref()
            .filter(|_| number.is_multiple_of(args.fault_every))
            .map(|fault| {
                OwnedHeaders::new().insert(Header {
                    key: "x-fault",
                    value: Some(fault),
                })
            });
        loop {
            record = match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                    producer.poll(Duration::ZERO);
                    thread::sleep(QUEUE_FULL_WAIT);
                    record
                }
                Err((error, _)) => return Err(error).context("send"),
            };
        }
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

/// Seeded orders; buffers are reused.
struct Orders {
    random: fastrand::Rng,
    record_size: usize,
    number: u64,
    key: String,
    value: String,
}

impl Orders {
    fn new(seed: u64, record_size: usize) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            record_size,
            number: 0,
            key: String::new(),
            value: String::new(),
        }
    }

    /// Key (the customer, so that a customer's orders keep their order) and JSON of the next order.
    fn next_order(&mut self) -> Result<(&str, &str)> {
        const CURRENCIES: [&str; 5] = ["eur", "usd", "gbp", "chf", "sek"];
        const WORDS: [&str; 12] = [
            "leave",
            "with",
            "the",
            "neighbour",
            "gift",
            "wrap",
            "call",
            "before",
            "fragile",
            "door",
            "code",
            "weekend",
        ];
        let Self {
            random, key, value, ..
        } = self;
        key.clear();
        value.clear();
        write!(key, "c-{:06}", random.u32(..100_000))?;
        write!(
            value,
            r#"{{"order_id":"o-{:010}","customer_id":"{key}","currency":"{}","placed_at_ms":{},"items":["#,
            self.number,
            CURRENCIES[random.usize(..CURRENCIES.len())],
            FIRST_PLACED_AT_MS + self.number,
        )?;
        for item in 0..random.u32(1..=3) {
            if item > 0 {
                value.push(',');
            }
            write!(
                value,
                r#"{{"sku":"sku-{:05}","qty":{},"unit_price_cents":{}}}"#,
                random.u32(..100_000),
                random.u32(1..=5),
                random.u32(100..=30_000),
            )?;
        }
        value.push_str(r#"],"note":""#);
        let note_end = self.record_size.saturating_sub(2);
        while value.len() < note_end {
            value.push_str(WORDS[random.usize(..WORDS.len())]);
            write!(value, " {} ", random.u32(..1000))?;
        }
        if value.len() > note_end && self.record_size > 300 {
            value.truncate(note_end);
        }
        value.push_str(r#""}"#);
        self.number += 1;
        Ok((key, value))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Orders;

    #[test]
    fn the_same_seed_gives_the_same_orders_of_the_size_asked_for() {
        let (mut one, mut other) = (Orders::new(7, 316), Orders::new(7, 316));
        for _ in 0..1000 {
            let order = one.next_order().unwrap();
            assert_eq!(order, other.next_order().unwrap());
            assert_eq!(order.1.len(), 316);
            serde_json::from_str::<serde_json::Value>(order.1).unwrap();
        }
    }
}
