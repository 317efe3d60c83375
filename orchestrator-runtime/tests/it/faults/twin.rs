//! Two processes that were given the same name: one of them ends and says why, and no work is done twice.

use orchestrator_testkit::process::Process;
use orchestrator_testkit::wait;

use super::scene::{LIMIT, Scene, shared};
use super::served::wait_until_all_work;

/// What a process ends with that was fenced by a twin.
pub(crate) const FENCED: i32 = 4;
const PARTITIONS: i32 = 4;

async fn scene() -> Scene {
    let scene = Scene::new(shared(), 1, PARTITIONS).await;
    scene.with("ORCH_HTTP_ADDR", "127.0.0.1:0")
}

/// It has ended as a twin does, and its last words name the setting to change.
async fn assert_fenced(process: &Process) {
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(
        status.code(),
        Some(FENCED),
        "{process:?} ended with {status}"
    );
    let lines = process.lines();
    let last = &lines.last().unwrap().text;
    assert!(last.contains("ORCH_INSTANCE_ID"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_of_the_same_name_ends_the_first() {
    let scene = scene().await;
    let load = scene.load(1_000);
    let first = scene.start("twin");
    wait_until_all_work(&[&first], 200).await;
    let second = scene.start("twin");
    assert_fenced(&first).await;
    wait_until_all_work(&[&second], 200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_start_at_once_one_goes_on() {
    let scene = scene().await;
    let load = scene.load(1_000);
    let (one, other) = (scene.start("twin"), scene.start("twin"));
    wait::until("one of the twins ends", LIMIT, async || {
        [&one, &other].iter().any(|p| p.status().unwrap().is_some())
    })
    .await
    .unwrap();
    let (fenced, goes_on) = if one.status().unwrap().is_some() {
        (&one, &other)
    } else {
        (&other, &one)
    };
    assert_fenced(fenced).await;
    wait_until_all_work(&[goes_on], 200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[goes_on]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_without_a_name_are_no_twins() {
    let scene = scene().await;
    let load = scene.load(1_000);
    let start = || scene.program().start().unwrap();
    let (one, other) = (start(), start());
    wait_until_all_work(&[&one, &other], 200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&one, &other]).await;
}
