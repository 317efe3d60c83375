//! The performance floor: the best consume-transform-produce loop that we can write by hand on rdkafka, exactly once or
//! at least once. `main` runs it as `load-test floor`; `compare` runs that as a child process and measures the library
//! against it.
//!
//! One straight file, no framework: one consumer, one transactional producer, two threads. This thread
//! gathers records and transforms them into the next unit; the transaction thread commits the unit
//! before it. What a production loop needs beyond that (retries, holds, dead letters, a drain) must
//! never come in here: any error ends the program, its open transaction is never committed, and the
//! broker's committed offsets are where the next run begins. That alone keeps it exactly once.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::Property;

/// Units in existence: one being gathered and one being committed. Their number is the back-pressure.
const UNITS: usize = 2;
/// Nothing to read for this long: the unit goes as it is.
const GATHER_IDLE: Duration = Duration::from_millis(5);
/// How often a full producer queue and outstanding deliveries are looked at. Slept, not passed to
/// `poll`: rdkafka rounds what is left of a time-out down to whole milliseconds, so its last
/// millisecond is spent spinning on a core that broker and transform need.
const PRODUCER_LOOK: Duration = Duration::from_micros(500);
/// For each single wait on the broker; longer than the transaction time-out, so that the broker
/// decides first.
const BROKER_TIMEOUT: Duration = Duration::from_secs(30);

/// The best that was found: with 10,000 the loop has 0.6 of that throughput once it is under way.
pub(crate) const RECORDS_PER_TRANSACTION: u64 = 50_000;

/// What the loop reads, writes and how much of it.
#[derive(Args, Debug)]
pub(crate) struct FloorArgs {
    /// Brokers to connect to, host:port[,host:port..]
    #[arg(long)]
    bootstrap_servers: String,
    /// Topic the orders are read from
    #[arg(long)]
    source: String,
    /// Topic the enriched orders are written to
    #[arg(long)]
    target: String,
    /// Consumer group; its committed offsets say where to begin
    #[arg(long)]
    group: String,
    /// Records to process before the program ends
    #[arg(long)]
    num_records: u64,
    /// No transactions: offsets are committed once the outputs are delivered
    #[arg(long)]
    at_least_once: bool,
    /// Copy records as they are, no JSON
    #[arg(long)]
    copy: bool,
    /// Microseconds of CPU that each record costs on top
    #[arg(long, default_value_t = 0)]
    cpu_us: u64,
    /// Most records in one transaction, or in one commit without; two times as many are in memory
    #[arg(long, default_value_t = RECORDS_PER_TRANSACTION)]
    records_per_transaction: u64,
    /// A librdkafka setting of the consumer, key=value (repeatable)
    #[arg(long)]
    consumer_property: Vec<Property>,
    /// A librdkafka setting of the producer, key=value (repeatable)
    #[arg(long)]
    producer_property: Vec<Property>,
}

/// Processes `num_records` records, then returns. Prints what it did as its last line.
pub(crate) fn run(args: &FloorArgs) -> Result<()> {
    let consumer: BaseConsumer = consumer_config(args).create().context("consumer")?;
    consumer.subscribe(&[&args.source]).context("subscribe")?;
    let producer: BaseProducer<Failures> = producer_config(args)
        .create_with_context(Failures::default())
        .context("producer")?;
    if !args.at_least_once {
        // The group forms in the background meanwhile.
        producer.init_transactions(BROKER_TIMEOUT).context("init")?;
    }

    // Units go round: gathered -> committed -> spare. Reusing their buffers spares the page faults of
    // some megabytes a unit.
    let (to_commit, gathered) = sync_channel(UNITS);
    let (to_spare, spare) = channel();
    for _ in 0..UNITS {
        to_spare.send(Unit::default())?;
    }
    let committed = thread::scope(|scope| {
        let committer =
            scope.spawn(|| commit_units(args, &consumer, &producer, gathered, to_spare));
        let gathering = gather_units(args, &consumer, &spare, to_commit);
        let committing = committer.join();
        gathering?;
        committing.map_err(|_| anyhow!("the transaction thread panicked"))?
    })?;
    if let Some((first, at_first)) = committed.at_first {
        let rate = (committed.records - at_first) as f64 / first.elapsed().as_secs_f64();
        println!(
            "{} records in {} transactions, {rate:.0} records/s from the first commit to the last",
            committed.records, committed.transactions
        );
    }
    Ok(())
}

fn consumer_config(args: &FloorArgs) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &args.bootstrap_servers)
        .set("group.id", &args.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("queued.min.messages", "100000")
        .set("queued.max.messages.kbytes", "65536")
        // Once the local queue is full, librdkafka stops fetching for this long: its default of a
        // second costs two thirds of the throughput.
        .set("fetch.queue.backoff.ms", "2");
    for Property { key, value } in &args.consumer_property {
        config.set(key, value);
    }
    config
}

fn producer_config(args: &FloorArgs) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &args.bootstrap_servers)
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "12000")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("retry.backoff.ms", "2")
        // A failed delivery also makes the commit fail, so reports of success tell us nothing.
        .set("delivery.report.only.error", "true");
    if !args.at_least_once {
        config
            .set("transactional.id", format!("{}-floor", args.group))
            .set("transaction.timeout.ms", "15000");
    }
    for Property { key, value } in &args.producer_property {
        config.set(key, value);
    }
    config
}

/// What commits together: outputs in one buffer, and where each source partition goes on.
#[derive(Default)]
struct Unit {
    /// Key and value of each output, back to back.
    bytes: Vec<u8>,
    outputs: Vec<Output>,
    /// Next offset by partition number.
    next_offsets: Vec<Option<i64>>,
    /// Taken with the first record. A rebalance since then moves the generation, the broker refuses
    /// the offsets, and records of a partition we may have lost are not committed.
    group: Option<ConsumerGroupMetadata>,
}

/// Where an output ends in [`Unit::bytes`]; it begins where the one before it ended.
struct Output {
    key_end: Option<usize>,
    value_end: usize,
    timestamp: Option<i64>,
}

fn gather_units(
    args: &FloorArgs,
    consumer: &BaseConsumer,
    spare: &Receiver<Unit>,
    to_commit: SyncSender<Unit>,
) -> Result<()> {
    let mut left = args.num_records;
    while left > 0 {
        // A closed channel means that the transaction thread has failed; it says why.
        let Ok(mut unit) = spare.recv() else {
            break;
        };
        left -= gather(
            args,
            consumer,
            left.min(args.records_per_transaction),
            &mut unit,
        )?;
        if to_commit.send(unit).is_err() {
            break;
        }
    }
    Ok(())
}

/// Fills the unit with 1 to `most` records; waits for the first.
fn gather(args: &FloorArgs, consumer: &BaseConsumer, most: u64, unit: &mut Unit) -> Result<u64> {
    unit.bytes.clear();
    unit.outputs.clear();
    unit.next_offsets.clear();
    unit.group = None;
    let mut records = 0;
    while records < most {
        match consumer.poll(GATHER_IDLE) {
            Some(Ok(record)) => {
                if records == 0 {
                    unit.group = consumer.group_metadata();
                }
                take(args, &record, unit).with_context(|| {
                    format!(
                        "record {}:{}:{}",
                        record.topic(),
                        record.partition(),
                        record.offset()
                    )
                })?;
                records += 1;
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => bail!("consumer: {code}"),
            // A broker that comes and goes: librdkafka connects again by itself.
            Some(Err(error)) => eprintln!("consumer: {error}"),
            None if records > 0 => break,
            None => {}
        }
    }
    Ok(records)
}

/// Transforms the record into the unit and notes its partition's next offset.
fn take(args: &FloorArgs, record: &BorrowedMessage<'_>, unit: &mut Unit) -> Result<()> {
    let key_end = record.key().map(|key| {
        unit.bytes.extend_from_slice(key);
        unit.bytes.len()
    });
    let value = record.payload().unwrap_or_default();
    if args.copy {
        unit.bytes.extend_from_slice(value);
    } else {
        serde_json::to_writer(&mut unit.bytes, &enrich(serde_json::from_slice(value)?)?)?;
    }
    let busy_until = Instant::now() + Duration::from_micros(args.cpu_us);
    while args.cpu_us > 0 && Instant::now() < busy_until {
        std::hint::spin_loop();
    }
    unit.outputs.push(Output {
        key_end,
        value_end: unit.bytes.len(),
        timestamp: record.timestamp().to_millis(),
    });

    let partition = usize::try_from(record.partition())?;
    if unit.next_offsets.len() <= partition {
        unit.next_offsets.resize(partition + 1, None);
    }
    unit.next_offsets[partition] = Some(record.offset() + 1);
    Ok(())
}

/// Commits units until the gathering side is done.
fn commit_units(
    args: &FloorArgs,
    consumer: &BaseConsumer,
    producer: &BaseProducer<Failures>,
    gathered: Receiver<Unit>,
    to_spare: Sender<Unit>,
) -> Result<Committed> {
    let mut committed = Committed::default();
    for unit in gathered {
        commit(args, consumer, producer, &unit)?;
        committed.transactions += 1;
        committed.records += unit.outputs.len();
        committed
            .at_first
            .get_or_insert((Instant::now(), committed.records));
        // Refused only at the end, when nobody gathers any more.
        to_spare.send(unit).ok();
    }
    Ok(committed)
}

/// For the last line.
#[derive(Default)]
struct Committed {
    transactions: u64,
    records: usize,
    /// When the first transaction committed, and its records.
    at_first: Option<(Instant, usize)>,
}

/// What librdkafka says of deliveries: only whether one has failed, which ends the program.
#[derive(Default)]
struct Failures(AtomicBool);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn commit(
    args: &FloorArgs,
    consumer: &BaseConsumer,
    producer: &BaseProducer<Failures>,
    unit: &Unit,
) -> Result<()> {
    if !args.at_least_once {
        producer.begin_transaction().context("begin")?;
    }
    let mut begin = 0;
    for output in &unit.outputs {
        let value_begin = output.key_end.unwrap_or(begin);
        let mut record = BaseRecord::<[u8], [u8]>::to(&args.target)
            .payload(&unit.bytes[value_begin..output.value_end]);
        record.key = output.key_end.map(|end| &unit.bytes[begin..end]);
        record.timestamp = output.timestamp;
        begin = output.value_end;
        send(producer, record)?;
    }

    // While the deliveries are under way, the offsets go too; either failing ends in no commit.
    let mut offsets = TopicPartitionList::with_capacity(unit.next_offsets.len());
    for (partition, next) in (0..).zip(&unit.next_offsets) {
        if let Some(next) = *next {
            offsets.add_partition_offset(&args.source, partition, Offset::Offset(next))?;
        }
    }
    let group = unit.group.as_ref().context("not a member of the group")?;
    if !args.at_least_once {
        producer
            .send_offsets_to_transaction(&offsets, group, BROKER_TIMEOUT)
            .context("send offsets")?;
    }

    // rdkafka's commit flushes first, in slices of 100 ms: it must find nothing left to flush.
    let delivering = Instant::now();
    while producer.in_flight_count() > 0 {
        ensure!(delivering.elapsed() < BROKER_TIMEOUT, "deliveries stalled");
        look_again(producer);
    }
    if args.at_least_once {
        let failed = producer.context().0.load(Ordering::Relaxed);
        ensure!(!failed, "a delivery failed");
        return consumer
            .commit(&offsets, CommitMode::Async)
            .context("commit");
    }
    producer
        .commit_transaction(BROKER_TIMEOUT)
        .context("commit")
}

/// Lets time pass, and errors be reported: unserved, they count as in flight.
fn look_again(producer: &BaseProducer<Failures>) {
    producer.poll(Duration::ZERO);
    thread::sleep(PRODUCER_LOOK);
}

/// Hands one record to librdkafka; waits while its queue is full.
fn send(producer: &BaseProducer<Failures>, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<()> {
    loop {
        record = match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                look_again(producer);
                record
            }
            // Committing without this record would lose it silently.
            Err((error, _)) => return Err(error).context("send"),
        };
    }
}

/// The order as it comes in: the example app's, but borrowing its text from the record.
#[derive(Deserialize)]
struct Order<'a> {
    #[serde(borrow)]
    order_id: Cow<'a, str>,
    #[serde(borrow)]
    customer_id: Cow<'a, str>,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    placed_at_ms: i64,
    #[serde(borrow)]
    items: Vec<Item<'a>>,
    #[serde(borrow)]
    note: Cow<'a, str>,
}

#[derive(Deserialize, Serialize)]
struct Item<'a> {
    #[serde(borrow)]
    sku: Cow<'a, str>,
    qty: u64,
    unit_price_cents: u64,
}

/// The order as it goes out: the same fields in the same order, then what was worked out.
#[derive(Serialize)]
struct EnrichedOrder<'a> {
    order_id: Cow<'a, str>,
    customer_id: Cow<'a, str>,
    currency: Cow<'a, str>,
    placed_at_ms: i64,
    items: Vec<Item<'a>>,
    note: Cow<'a, str>,
    item_count: u64,
    total_cents: u64,
    tier: &'static str,
}

fn enrich(mut order: Order<'_>) -> Result<EnrichedOrder<'_>> {
    let (mut item_count, mut total_cents) = (0_u64, 0_u64);
    for item in &order.items {
        ensure!(item.qty > 0, "item {} has qty 0", item.sku);
        item_count = item_count.saturating_add(item.qty);
        let price = item.qty.checked_mul(item.unit_price_cents);
        total_cents = price
            .and_then(|price| total_cents.checked_add(price))
            .context("the total is out of range")?;
    }
    order.currency.to_mut().make_ascii_uppercase();
    Ok(EnrichedOrder {
        order_id: order.order_id,
        customer_id: order.customer_id,
        currency: order.currency,
        placed_at_ms: order.placed_at_ms,
        items: order.items,
        note: order.note,
        item_count,
        total_cents,
        tier: match total_cents {
            100_000.. => "premium",
            20_000.. => "plus",
            _ => "standard",
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::enrich;

    #[track_caller]
    fn check(order: &str, enriched: &str) {
        let order = serde_json::from_str(order).unwrap();
        let out = serde_json::to_string(&enrich(order).unwrap()).unwrap();
        assert_eq!(out, enriched);
    }

    #[test]
    fn keeps_fields_and_adds_the_sums() {
        check(
            r#"{"order_id":"o-1","customer_id":"c","currency":"eur","placed_at_ms":7,"items":[{"sku":"a","qty":2,"unit_price_cents":9999},{"sku":"b","qty":1,"unit_price_cents":2}],"note":"a \"b\" ü"}"#,
            r#"{"order_id":"o-1","customer_id":"c","currency":"EUR","placed_at_ms":7,"items":[{"sku":"a","qty":2,"unit_price_cents":9999},{"sku":"b","qty":1,"unit_price_cents":2}],"note":"a \"b\" ü","item_count":3,"total_cents":20000,"tier":"plus"}"#,
        );
    }

    #[test]
    fn qty_0_is_refused() {
        let order = r#"{"order_id":"o","customer_id":"c","currency":"eur","placed_at_ms":7,"items":[{"sku":"a","qty":0,"unit_price_cents":1}],"note":""}"#;
        assert!(enrich(serde_json::from_str(order).unwrap()).is_err());
    }
}
