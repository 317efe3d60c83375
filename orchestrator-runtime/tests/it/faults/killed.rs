//! Processes that are killed, with a transaction open or at any time, and start again under the same name.

use std::time::{Duration, Instant};

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::Limit;
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;

use super::exact::Fate;
use super::given;
use super::scene::{LIMIT, Scene, shared};
use super::served::wait_until_all_work;

/// No load has these orders.
const SEED: u64 = 7;
/// How many transactions have to be cut short.
const KILLS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_with_an_open_transaction_loses_and_doubles_nothing() {
    // Longer than this test: only the restart under the same name can end what the killed one left open.
    let scene = Scene::new(shared(), 1, 4)
        .await
        .writing_at_once()
        .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "59000");
    let load = scene.load(2_000);
    let mut kills = 0;
    while kills < KILLS {
        let app = scene.start("solo");
        scene.wait_for_progress(200).await;
        // Every other time it is taken by surprise: in the middle of a call rather than between two.
        if kills % 2 == 0 {
            scene.freeze_in_transaction(&[&app]).await;
        }
        app.kill().await.unwrap();
        // Nobody is left to end it, so what is open now stays open.
        kills += usize::from(scene.has_open_transaction().await);
    }
    given::bitten(KILLS as u64, "killed with a transaction open");
    let app = scene.start("solo");
    let inputs = load.stop().await;
    wait::until("the open transaction is aborted", LIMIT, async || {
        !scene.has_open_transaction().await
    })
    .await
    .unwrap();
    scene.finish(&inputs, &[&app]).await;

    let written = scene.read(&scene.target, Isolation::Uncommitted).await;
    let visible = scene.read(&scene.target, Isolation::Committed).await;
    assert!(
        written.len() >= visible.len() + KILLS,
        "{KILLS} transactions were cut short, but only {} outputs were aborted",
        written.len() - visible.len(),
    );
}

/// Whatever it does just then. Each has passed something before, so no record may look as if it had killed it.
async fn killed_at_random_times(mode: &str) {
    let scene = Scene::new(shared(), 1, 4)
        .await
        .with("ORCH_FAILURE_MODE", mode)
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0")
        .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "59000");
    let times = given::times(4);
    let mut random = fastrand::Rng::with_seed(given::seed());
    let load = scene.load(1_000);
    let mut app = scene.start("solo");
    wait_until_all_work(&[&app], 1).await;
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(random.u64(0..600))).await;
        app.kill().await.unwrap();
        let started = Instant::now();
        app = scene.start("solo");
        wait_until_all_work(&[&app], 1).await;
        given::resumed(started.elapsed());
    }
    given::bitten(times, "killed at a random time");
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_pipeline_is_exact_whenever_it_is_killed() {
    killed_at_random_times("ATOMIC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_skips_is_exact_whenever_it_is_killed() {
    killed_at_random_times("SKIP_AND_LOG").await;
}

/// Of a size for which an allocator asks the kernel.
const LARGE: &str = "oversize:40000000";

/// The kernel gives it nothing more, so that it ends in the middle of a call, as it would in a container that is too small.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_gets_no_memory_ends_and_loses_and_doubles_nothing() {
    let scene = Scene::new(shared(), 1, 4)
        .await
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0")
        .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "59000");
    let load = scene.load(500);
    let mut inputs = Vec::new();
    for number in 0..2 {
        let app = scene.start("solo");
        wait_until_all_work(&[&app], 50).await;
        app.limit(Limit::Memory, Some(0)).unwrap();
        let order = Orders::new(SEED).order(number).into_record();
        let order = (order.header("x-fault", LARGE), Fate::DeadLetter);
        inputs.extend(scene.write(0, vec![order]).await);
        let ended = app.wait(LIMIT).await.unwrap();
        assert!(!ended.success(), "void: it had memory enough");
    }
    given::bitten(2, "no more memory");
    let app = scene.start("solo");
    wait_until_all_work(&[&app], 50).await;
    inputs.extend(load.stop().await);
    scene.finish(&inputs, &[&app]).await;
}
