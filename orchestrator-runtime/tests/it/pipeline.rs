//! The whole pipeline on a real Kafka, checked by a reader that shares no code with it.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator_runtime::core::{Context, Output, Record, TransformError, transform_fn};
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
    let drain = CancellationToken::new();
    let pipeline = Orchestrator::builder(config)
        .transformer(transform_fn(shout))
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

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_redelivered_after_a_clean_drain() {
    let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
    let topics = topics(&admin, 2).await;
    for batch in 0..3_u64 {
        let numbers = (1..100).map(|n| WriteRecord::new((batch * 100 + n).to_string()).key("k"));
        let numbers: Vec<_> = numbers.collect();
        write(Kafka::shared().bootstrap_servers(), &topics.source, numbers)
            .await
            .unwrap();
        let drained = run_to_the_end(&admin, &topics, config(&topics, &[])).await;
        assert_eq!(drained.counts.ok, 99);
    }
    assert_eq!(visible(&topics.target).await.len(), 297);
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
