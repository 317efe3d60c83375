//! Outputs that no broker takes: to topics that a record chose and that do not exist, or no longer, or too large for
//! a topic that took more a moment ago.

use std::collections::BTreeMap;

use orchestrator_runtime::core::{Context, Output, Record, TransformError, transform_fn};
use orchestrator_testkit::admin::fresh;
use orchestrator_testkit::orders::expected_output;
use orchestrator_testkit::reader::Isolation;

use super::super::exact::{Fate, Input};
use super::super::given;
use super::super::inside::Inside;
use super::super::scene::{Scene, shared};
use super::{FAULTY_AT, orders_with_fault};

/// Enriches orders by the oracle itself; a header may choose the topic, or have many outputs made.
fn enrich(record: &Record, _: &Context<'_>) -> Result<Vec<Output>, TransformError> {
    let text = |name| {
        record
            .header(name)
            .map(|v| String::from_utf8_lossy(v).into_owned())
    };
    let value = expected_output(record.value().unwrap_or_default()).unwrap();
    let output = Output::new(value);
    if let Some(count) = text("x-outputs") {
        return Ok(vec![output; count.parse()?]);
    }
    Ok(vec![match text("x-topic") {
        Some(topic) => output.with_topic(topic),
        None => output,
    }])
}

/// One to a partition; the last partition has a topic that exists.
async fn topics_that_do_not_exist(mode: &str) {
    let long = "x".repeat(300);
    let headers = [
        ("x-topic", "does-not-exist"),
        ("x-topic", "not/a/name"),
        ("x-topic", ""),
        ("x-topic", long.as_str()),
        ("x-outputs", "1001"),
    ];
    let scene = Scene::new(shared(), 1, headers.len() as i32 + 1).await;
    let scene = scene.with("ORCH_FAILURE_MODE", mode);
    let elsewhere = fresh("elsewhere");
    scene.admin.create_topic(&elsewhere, 1, &[]).await.unwrap();
    let mut inputs: Vec<Input> = Vec::new();
    for (partition, header) in (0..).zip(headers) {
        let records = orders_with_fault(partition, header, |_| Fate::DeadLetter);
        inputs.extend(scene.write(0, records).await);
    }
    let last = headers.len() as i32;
    let records = orders_with_fault(last, ("x-topic", &elsewhere), |_| Fate::Nothing);
    inputs.extend(scene.write(0, records).await);

    let inside = Inside::start(scene.config(&[]), transform_fn(enrich));
    scene.wait_until_passed(&inputs).await;
    let drained = inside.drain().await;
    assert_eq!(drained.counts.dead_letters, headers.len() as u64);
    scene.judge(&inputs).await.unwrap();
    assert_eq!(scene.read(&elsewhere, Isolation::Committed).await.len(), 1);
    given::bitten(
        headers.len() as u64,
        "records: outputs for no topic, or too many",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_do_not_exist_are_their_records_failure_in_atomic() {
    topics_that_do_not_exist("ATOMIC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_do_not_exist_are_their_records_failure_in_skip_and_log() {
    topics_that_do_not_exist("SKIP_AND_LOG").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_holds_its_record_under_block() {
    let scene = Scene::new(shared(), 1, 2)
        .await
        .with("ORCH_ATOMIC_ON_POISON", "BLOCK");
    let mut records = orders_with_fault(0, ("x-topic", "does-not-exist"), |_| Fate::Nothing);
    for (_, fate) in &mut records[FAULTY_AT as usize..] {
        *fate = Fate::Nothing;
    }
    let mut inputs = scene.write(0, records).await;
    let sound = orders_with_fault(1, ("x", ""), Fate::of_order);
    inputs.extend(scene.write(0, sound).await);
    let inside = Inside::start(scene.config(&[]), transform_fn(enrich));
    inside
        .wait_until_held(&BTreeMap::from([(0, FAULTY_AT)]), "poison")
        .await;
    scene.wait_until_passed(&inputs).await;
    inside.drain().await;
    scene.judge(&inputs).await.unwrap();
}

/// The broker itself refuses what was allowed when it was looked up; the record to blame is found among many.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_broker_refuses_is_that_records_failure_too() {
    let scene = Scene::new(shared(), 1, 2).await;
    let elsewhere = fresh("elsewhere");
    scene.admin.create_topic(&elsewhere, 1, &[]).await.unwrap();
    let inside = Inside::start(scene.config(&[]), transform_fn(enrich));
    // The topic is looked up and used, and its limit is remembered.
    let first = orders_with_fault(0, ("x-topic", &elsewhere), |_| Fate::Nothing);
    let mut inputs = scene.write(0, first).await;
    scene.wait_until_passed(&inputs).await;
    let limit = [("max.message.bytes", "100")];
    scene
        .admin
        .configure_topic(&elsewhere, &limit)
        .await
        .unwrap();

    let again = orders_with_fault(1, ("x-topic", &elsewhere), |_| Fate::DeadLetter);
    inputs.extend(scene.write(0, again).await);
    scene.wait_until_passed(&inputs).await;
    let drained = inside.drain().await;
    assert_eq!((drained.counts.failed, drained.counts.dead_letters), (1, 1));
    scene.judge(&inputs).await.unwrap();
    assert_eq!(scene.read(&elsewhere, Isolation::Committed).await.len(), 1);
    given::bitten(1, "records: an output that only the broker refuses");
}
