//! A record that ends the process each time it is transformed: processes that are started again and again find it,
//! and nothing else is lost, doubled or blamed.

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::Process;

use super::exact::{Fate, Input};
use super::given;
use super::scene::{LIMIT, Scene, drain, shared};
use super::served::counted;

const ORDERS: u64 = 3_000;
const PARTITIONS: i32 = 3;
/// `ORCH_CRASH_QUARANTINE_AFTER`, and the first, which may die in the middle of its work.
const RESTARTS_MAX: u32 = 4;

async fn scene() -> Scene {
    let scene = Scene::new(shared(), 1, PARTITIONS).await;
    scene.with("ORCH_HTTP_ADDR", "127.0.0.1:0")
}

async fn write(scene: &Scene, killers: &[u64], fault: &'static str) -> Vec<Input> {
    let orders = Orders::new(11).range(0..ORDERS).map(|order| {
        let kills = killers.contains(&order.index);
        let partition = (order.index % PARTITIONS as u64) as i32;
        let record = order.into_record().partition(partition);
        if kills {
            return (record.header("x-fault", fault), Fate::DeadLetter);
        }
        let fate = Fate::of_order(record.value.as_deref().unwrap());
        (record, fate)
    });
    scene.write(0, orders.collect()).await
}

/// Starts it again and again until the end that is waited for comes before the process is aborted. Gives that process,
/// and how often it had to be started again.
async fn live_until(scene: &Scene, end: impl AsyncFn(&Process)) -> (Process, u32) {
    for restarts in 0.. {
        let app = scene.start("solo");
        let aborted = tokio::select! {
            status = app.wait(LIMIT) => Some(status.unwrap()),
            () = end(&app) => None,
        };
        match aborted {
            Some(status) => assert_eq!(status.code(), None, "it was not aborted: {status}"),
            None => return (app, restarts),
        }
    }
    unreachable!()
}

/// It says that it found one record.
async fn assert_found(app: &Process, restarts: u32) {
    assert!(restarts <= RESTARTS_MAX, "{restarts} restarts");
    assert_eq!(counted(app, "orch_records_quarantined_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_aborts_the_process_is_found() {
    for killer in [0, 1_600] {
        is_found(scene().await, killer, "exit").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_overflows_the_stack_is_found() {
    is_found(scene().await, 1_600, "overflow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_exhausts_memory_is_found_by_a_pipeline_that_skips() {
    let scene = scene().await.with("ORCH_FAILURE_MODE", "SKIP_AND_LOG");
    is_found(scene.in_consumer_protocol(), 1_600, "exhaust").await;
}

async fn is_found(scene: Scene, killer: u64, fault: &'static str) {
    let inputs = write(&scene, &[killer], fault).await;
    let passed = async |_: &Process| scene.wait_until_passed(&inputs).await;
    let (app, restarts) = live_until(&scene, passed).await;
    assert_found(&app, restarts).await;
    drain(&app).await;
    scene.judge(&inputs).await.unwrap();
    given::bitten(1, &format!("processes that a record kills: {fault}"));
}

/// Switched off, nobody looks for it: the operator passes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_aborts_the_process_does_so_for_ever_without_quarantine() {
    let scene = scene().await.with("ORCH_CRASH_QUARANTINE_AFTER", "0");
    let inputs = write(&scene, &[1_600], "exit").await;
    for _ in 0..=RESTARTS_MAX + 1 {
        let app = scene.start("solo");
        let status = app.wait(LIMIT).await.unwrap();
        assert_eq!(status.code(), None, "it was not aborted: {status}");
    }
    let killer = inputs.iter().find(|it| it.fate == Fate::DeadLetter);
    let Input { topic, at, .. } = killer.unwrap();
    let position = format!("{topic}:{}:{}", at.partition, at.offset);
    let scene = scene.with("ORCH_DEAD_LETTER_RECORDS", position);
    scene.finish(&inputs, &[&scene.start("solo")]).await;
    given::bitten(1, "processes that a record kills for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_aborts_the_process_is_held_under_block_until_an_operator_passes_it() {
    let scene = scene()
        .await
        .with("ORCH_FAILURE_MODE", "ATOMIC")
        .with("ORCH_ATOMIC_ON_POISON", "BLOCK");
    let inputs = write(&scene, &[1_600], "exit").await;
    let killer = inputs.iter().find(|it| it.fate == Fate::DeadLetter);
    let Input { topic, at, .. } = killer.unwrap();
    let position = format!("{topic}:{}:{}", at.partition, at.offset);
    let way_out = format!("ORCH_DEAD_LETTER_RECORDS={position}");
    let held = async |app: &Process| {
        let line = app.wait_for_line(LIMIT, |line| line.contains(&way_out));
        if line.await.is_err() {
            // It ended before it said so.
            std::future::pending::<()>().await;
        }
    };
    let (app, restarts) = live_until(&scene, held).await;
    assert_found(&app, restarts).await;
    drain(&app).await;
    let committed = scene.admin.committed(&scene.group, topic).await.unwrap();
    assert_eq!(committed[&at.partition], at.offset);

    let scene = scene.with("ORCH_DEAD_LETTER_RECORDS", &position);
    let app = scene.start("solo");
    scene.wait_until_passed(&inputs).await;
    drain(&app).await;
    scene.judge(&inputs).await.unwrap();
    given::bitten(1, "a record that kills, held");
}
