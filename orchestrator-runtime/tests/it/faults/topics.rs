//! Topics that are deleted, made anew or grown while a process works on them.

use std::collections::BTreeMap;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::Process;
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::WriteRecord;

use super::exact::{Fate, Input};
use super::given;
use super::scene::{LIMIT, Scene, drain, shared};
use super::served::wait_until_all_work;

const PARTITIONS: i32 = 4;

async fn scene() -> Scene {
    let scene = Scene::new(shared(), 1, PARTITIONS).await;
    scene.with("ORCH_HTTP_ADDR", "127.0.0.1:0")
}

/// Orders for a while, all of them passed and judged.
async fn a_while(scene: &Scene, app: &Process, before: &[Input]) -> Vec<Input> {
    let load = scene.load(500);
    wait_until_all_work(&[app], 500).await;
    let inputs = load.stop().await;
    scene.wait_until_passed(&inputs).await;
    let all: Vec<_> = before.iter().chain(&inputs).cloned().collect();
    scene.judge(&all).await.unwrap();
    inputs
}

/// Waits until a topic is gone, or there.
async fn until_there(scene: &Scene, topic: &str, there: bool) {
    let what = format!("{topic} is there: {there}");
    let known = wait::until(&what, LIMIT, async || {
        let partitions = scene.admin.partitions(topic).await;
        partitions.is_ok_and(|partitions| (partitions > 0) == there)
    });
    known.await.unwrap();
}

/// What cannot be written waits, whatever the mode: nothing is passed, and the process says which topic it is.
async fn the_target_is_deleted_and_made_anew(mode: &str) {
    let scene = scene().await.with("ORCH_FAILURE_MODE", mode);
    let app = scene.start("solo");
    let before = a_while(&scene, &app, &[]).await;
    let lines = app.line_count();
    scene.admin.delete_topic(&scene.target).await.unwrap();
    until_there(&scene, &scene.target, false).await;
    let passed = scene.passed().await.unwrap();
    let load = scene.load(500);
    let named =
        |line: &str| line.contains(&scene.target) && !line.contains(r#""log.level":"info""#);
    app.wait_for_line_after(lines, LIMIT, named).await.unwrap();
    assert_eq!(scene.passed().await, Some(passed), "something was passed");
    given::bitten(1, "the target topic deleted");
    let made = scene.admin.create_topic(&scene.target, PARTITIONS, &[]);
    made.await.unwrap();
    wait_until_all_work(&[&app], 500).await;
    let inputs = load.stop().await;
    scene.wait_until_passed(&inputs).await;
    drain(&app).await;
    // Outputs of before have gone with their topic.
    let gone = before.into_iter().map(|input| match input.fate {
        Fate::Output(_) => Input {
            fate: Fate::Nothing,
            ..input
        },
        _ => input,
    });
    let all: Vec<_> = gone.chain(inputs).collect();
    scene.judge(&all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_an_atomic_pipeline_wait_for_their_topic() {
    the_target_is_deleted_and_made_anew("ATOMIC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_a_pipeline_that_skips_wait_for_their_topic() {
    the_target_is_deleted_and_made_anew("SKIP_AND_LOG").await;
}

/// All of the new topic is read, from its first record.
async fn the_source_is_deleted_and_made_anew(scene: Scene) {
    let app = scene.start("solo");
    let before = a_while(&scene, &app, &[]).await;
    let source = &scene.sources[0];
    scene.admin.delete_topic(source).await.unwrap();
    until_there(&scene, source, false).await;
    let made = scene.admin.create_topic(source, PARTITIONS, &[]);
    made.await.unwrap();
    given::bitten(1, "the source topic deleted");
    let load = scene.load(500);
    wait_until_all_work(&[&app], 500).await;
    let inputs = load.stop().await;
    scene.wait_until_passed(&inputs).await;
    drain(&app).await;
    let (outputs, letters) = scene.visible().await;
    let expected = before.iter().chain(&inputs);
    let (mut wanted, mut dead) = (BTreeMap::<Vec<u8>, u64>::new(), 0);
    for input in expected {
        match &input.fate {
            Fate::Output(value) => *wanted.entry(value.clone()).or_default() += 1,
            _ => dead += 1,
        }
    }
    let mut found = BTreeMap::<Vec<u8>, u64>::new();
    for output in outputs {
        *found.entry(output.value.unwrap()).or_default() += 1;
    }
    assert!(
        found == wanted,
        "{} of {} outputs",
        found.len(),
        wanted.len()
    );
    assert_eq!(letters.len(), dead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_made_anew_is_read_from_its_first_record() {
    the_source_is_deleted_and_made_anew(scene().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_made_anew_is_read_from_its_first_record_in_kip_848() {
    the_source_is_deleted_and_made_anew(scene().await.in_consumer_protocol()).await;
}

/// The group coordinator tells its members by itself.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_are_read_in_kip_848() {
    let scene = scene().await.in_consumer_protocol();
    let app = scene.start("solo");
    let before = a_while(&scene, &app, &[]).await;
    let added = PARTITIONS;
    let growing = scene.admin.grow_topic(&scene.sources[0], PARTITIONS + 1);
    growing.await.unwrap();
    let order = |n: u64| {
        let order = Orders::new(1).order(n);
        let fate = Fate::of_order(order.value.as_bytes());
        let record: WriteRecord = order.into_record();
        (record.partition(added), fate)
    };
    let inputs = scene.write(0, (0..50).map(order).collect()).await;
    given::bitten(1, "a partition added");
    let all: Vec<_> = before.into_iter().chain(inputs).collect();
    scene.finish(&all, &[&app]).await;
}
