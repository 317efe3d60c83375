//! The whole pipeline on a real Kafka, checked by a reader that shares no code with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orchestrator_runtime::core::{
    Context, Output, Record, TransformError, Transformer, transform_fn,
};
use orchestrator_runtime::{CancellationToken, Config, Drained, Orchestrator};
use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::reader::{Isolation, ReadRecord, Until, read_all};
use orchestrator_testkit::writer::{WriteRecord, write};

const LIMIT: Duration = Duration::from_secs(120);

/// `n` becomes `n!`; a multiple of 100 is poison.
fn shout(record: &Record, _cx: &Context<'_>) -> Result<Output, TransformError> {
    let value = std::str::from_utf8(record.value().unwrap_or_default())?;
    let number: u64 = value.parse()?;
    if number.is_multiple_of(100) {
        return Err(TransformError::permanent("a multiple of 100"));
    }
    Ok(Output::new(format!("{number}!")))
}

struct Topics {
    source: String,
    target: String,
    dlq: String,
    group: String,
}

async fn topics(admin: &Admin, partitions: i32) -> Topics {
    let source = fresh("numbers");
    let topics = Topics {
        target: format!("{source}.out"),
        dlq: format!("{source}.dlq"),
        group: fresh("group"),
        source,
    };
    for topic in [&topics.source, &topics.target, &topics.dlq] {
        admin.create_topic(topic, partitions, &[]).await.unwrap();
    }
    topics
}

fn config(topics: &Topics, more: &[(&str, &str)]) -> Config {
    let base = [
        (
            "ORCH_BOOTSTRAP_SERVERS",
            Kafka::shared().bootstrap_servers(),
        ),
        ("ORCH_SOURCE_TOPICS", &topics.source),
        ("ORCH_TARGET_TOPIC", &topics.target),
        ("ORCH_GROUP_ID", &topics.group),
        ("ORCH_DLQ_TOPIC", "{topic}.dlq"),
        ("ORCH_HTTP_ADDR", "off"),
    ];
    let all = base
        .iter()
        .chain(more)
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::from_map(all).unwrap()
}

/// Runs a pipeline until the group has committed everything, then drains it.
async fn run_to_the_end(admin: &Admin, topics: &Topics, config: Config) -> Drained {
    run_with(admin, topics, config, transform_fn(shout)).await
}

async fn run_with(
    admin: &Admin,
    topics: &Topics,
    config: Config,
    transformer: impl Transformer,
) -> Drained {
    let drain = CancellationToken::new();
    let pipeline = Orchestrator::builder(config)
        .transformer(transformer)
        .build()
        .unwrap();
    let running = tokio::spawn(pipeline.run(drain.clone()));
    let ends = admin
        .end_offsets(&topics.source, Isolation::Committed)
        .await
        .unwrap();
    let committed = admin
        .wait_for_committed(&topics.group, &topics.source, &ends, LIMIT)
        .await;
    drain.cancel();
    let drained = running.await.unwrap().unwrap();
    committed.unwrap();
    drained
}

async fn visible(topic: &str) -> Vec<ReadRecord> {
    let bootstrap = Kafka::shared().bootstrap_servers();
    read_all(bootstrap, &[topic], Isolation::Committed, Until::End, LIMIT)
        .await
        .unwrap()
}

/// The numbers in a topic, by the partition their keys say they came from, in order.
fn by_key(records: &[ReadRecord], suffix: &str) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in records {
        let number = record
            .value_text()
            .strip_suffix(suffix)
            .unwrap()
            .parse()
            .unwrap();
        found
            .entry(record.key_text().to_owned())
            .or_default()
            .push(number);
    }
    found
}

/// 100,000 records with 1 % poison: outputs, dead letters, order and counts are exact.
async fn poison_run(mode: &[(&str, &str)]) {
    let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
    let topics = topics(&admin, 4).await;
    let records = (1..=100_000_u64).map(|n| {
        let partition = (n % 4) as i32;
        WriteRecord::new(n.to_string())
            .key(partition.to_string())
            .partition(partition)
    });
    let records: Vec<_> = records.collect();
    write(Kafka::shared().bootstrap_servers(), &topics.source, records)
        .await
        .unwrap();
    let drained = run_to_the_end(&admin, &topics, config(&topics, mode)).await;

    let expected = |poison: bool| {
        let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for n in (1..=100_000_u64).filter(|n| n.is_multiple_of(100) == poison) {
            expected.entry((n % 4).to_string()).or_default().push(n);
        }
        expected
    };
    assert_eq!(by_key(&visible(&topics.target).await, "!"), expected(false));
    let letters = visible(&topics.dlq).await;
    assert_eq!(by_key(&letters, ""), expected(true));
    for letter in &letters {
        assert_eq!(
            letter.header("__streams.errors.topic"),
            Some(&*topics.source)
        );
        assert_eq!(
            letter.header("__streams.errors.message"),
            Some("a multiple of 100")
        );
    }
    assert_eq!(
        (drained.counts.ok, drained.counts.dead_letters),
        (99_000, 1_000)
    );
    assert!(!drained.timed_out);
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_with_dead_letters_is_exact() {
    poison_run(&[("ORCH_ATOMIC_ON_POISON", "DLQ")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_and_log_with_dead_letters_is_exact() {
    poison_run(&[("ORCH_FAILURE_MODE", "SKIP_AND_LOG")]).await;
}

/// Writes the numbers that are no multiples of 100, and gives how many these are.
async fn write_sound(topics: &Topics, numbers: std::ops::Range<u64>, partitions: u64) -> u64 {
    let sound = numbers.filter(|n| !n.is_multiple_of(100));
    let records: Vec<_> = sound
        .map(|n| {
            WriteRecord::new(n.to_string())
                .key((n % partitions).to_string())
                .partition((n % partitions) as i32)
        })
        .collect();
    let count = records.len() as u64;
    write(Kafka::shared().bootstrap_servers(), &topics.source, records)
        .await
        .unwrap();
    count
}

/// Each number came out once, and those of a partition in order.
async fn assert_all_in_order(topics: &Topics, written: u64) {
    let outputs = by_key(&visible(&topics.target).await, "!");
    let count: usize = outputs.values().map(Vec::len).sum();
    assert_eq!(count as u64, written);
    let in_order = |numbers: &Vec<u64>| numbers.is_sorted_by(|a, b| a < b);
    assert!(outputs.values().all(in_order));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_redelivered_after_a_clean_drain() {
    let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
    let topics = topics(&admin, 2).await;
    let written = write_sound(&topics, 1..60_000, 2).await;
    let calls = Arc::new(AtomicU64::new(0));
    let run = |drain_at: u64| {
        let calls = calls.clone();
        let drain = CancellationToken::new();
        let stop = drain.clone();
        let counting = transform_fn(move |record: &Record, cx: &Context<'_>| {
            if calls.fetch_add(1, Ordering::Relaxed) + 1 >= drain_at {
                stop.cancel();
            }
            shout(record, cx)
        });
        let pipeline = Orchestrator::builder(config(&topics, &[]))
            .transformer(counting)
            .build()
            .unwrap();
        pipeline.run(drain)
    };
    // Drained in the middle of the work, again and again.
    let mut passed = 0;
    for drain_at in [2_000, 15_000, written] {
        passed += run(drain_at).await.unwrap().counts.ok;
        assert_eq!(passed, calls.load(Ordering::Relaxed));
    }
    assert_eq!(passed, written);
    assert_all_in_order(&topics, written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_a_process_share_its_partitions() {
    let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
    let topics = topics(&admin, 6).await;
    let written = write_sound(&topics, 1..30_000, 6).await;
    let config = config(&topics, &[("ORCH_WORKERS", "3")]);
    let drained = run_to_the_end(&admin, &topics, config).await;
    assert_eq!(drained.counts.ok, written);
    assert_all_in_order(&topics, written).await;
}

/// A tenth of a second's records may come at once, and then so many a second.
#[tokio::test(flavor = "multi_thread")]
async fn the_rate_limit_is_kept() {
    let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
    let topics = topics(&admin, 2).await;
    let written = write_sound(&topics, 1..4_000, 2).await;
    let limited = [
        ("ORCH_RATE_LIMIT_PER_SECOND", "1000"),
        ("ORCH_WORKERS", "2"),
    ];
    let last = Arc::new(Mutex::new(Instant::now()));
    let seen = last.clone();
    let timed = transform_fn(move |record: &Record, cx: &Context<'_>| {
        *seen.lock().unwrap() = Instant::now();
        shout(record, cx)
    });
    let began = Instant::now();
    let drained = run_with(&admin, &topics, config(&topics, &limited), timed).await;
    assert_eq!(drained.counts.ok, written);
    let took = *last.lock().unwrap() - began;
    let least = Duration::from_secs_f64((written - 100) as f64 / 1000.0);
    assert!(took > least, "{written} records within {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn block_holds_one_partition_and_lets_the_others_flow() {
    let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
    let topics = topics(&admin, 2).await;
    let numbers: Vec<_> = (98..110_u64)
        .map(|n| {
            WriteRecord::new(n.to_string())
                .key("k")
                .partition((n % 2) as i32)
        })
        .collect();
    write(Kafka::shared().bootstrap_servers(), &topics.source, numbers)
        .await
        .unwrap();
    let drain = CancellationToken::new();
    let pipeline = Orchestrator::builder(config(&topics, &[]))
        .transformer(transform_fn(shout))
        .build()
        .unwrap();
    let running = tokio::spawn(pipeline.run(drain.clone()));
    // 98 is passed, 100 holds partition 0; partition 1 goes to its end.
    let expected = BTreeMap::from([(0, 1), (1, 6)]);
    admin
        .wait_for_committed(&topics.group, &topics.source, &expected, LIMIT)
        .await
        .unwrap();
    drain.cancel();
    let drained = running.await.unwrap().unwrap();
    assert_eq!((drained.counts.ok, drained.held_partitions), (7, 1));
    // The way out: exactly this record goes to the dead-letter queue.
    let freed = format!("{}:0:1", topics.source);
    let config = config(&topics, &[("ORCH_DEAD_LETTER_RECORDS", &freed)]);
    let drained = run_to_the_end(&admin, &topics, config).await;
    assert_eq!((drained.counts.ok, drained.counts.dead_letters), (4, 1));
    assert_eq!(visible(&topics.target).await.len(), 11);
}
