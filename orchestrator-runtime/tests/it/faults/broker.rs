//! A broker that dies and comes back, or falls silent, under load. No process ends, and nothing is lost or doubled.
//!
//! A broker that is alone must not be killed while it completes a transaction: Kafka 4.3 may then forget the markers of
//! that transaction when it starts again (KAFKA-20734), and what was aborted is seen, or what was committed is not. It
//! says so in its log, and such a run proves nothing about us. Nor may a transaction time out until it is back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_testkit::kafka::{Kafka, KafkaOptions};
use orchestrator_testkit::process::{Process, Signal};
use orchestrator_testkit::wall_clock::WallClock;

use super::clock::{HOUR, step};
use super::given;
use super::scene::{LIMIT, Scene, impatient};
use super::served::wait_until_all_work;

const PARTITIONS: i32 = 4;
/// How often a run may be void, for one that is not, because Kafka forgot markers.
const VOID_MAX: u64 = 6;
/// Where Kafka says that it forgets markers, and how.
pub(super) const FORGETFUL: &str = "kafka.coordinator.transaction.TransactionMarkerChannelManager";
const FORGETS: &str = "likely deleted already and hence can be skipped";

/// How long a broker may be back before something is committed.
const SOON: Duration = Duration::from_secs(15);
/// Longer than a broker needs to come back.
const TRANSACTION_TIMEOUT: (&str, &str) = ("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "30000");

async fn scene(kafka: &Kafka) -> Scene {
    Scene::new(kafka, 1, PARTITIONS)
        .await
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0")
}

/// Does something to the broker and waits until each process has warned of it.
async fn do_and_wait_until_noticed(processes: &[&Process], what: impl FnOnce()) {
    let lines: Vec<_> = processes.iter().map(|p| p.line_count()).collect();
    what();
    for (process, first) in processes.iter().zip(lines) {
        let warning =
            |line: &str| line.contains(r#""log.level":"warn""#) && !line.contains("dedupKey");
        let warned = process.wait_for_line_after(first, LIMIT, warning).await;
        warned.unwrap();
    }
}

/// Kills the broker while each process stands still in a transaction, and waits until all have noticed.
async fn dies_in_transactions(kafka: &Kafka, scene: &Scene, apps: &[&Process]) {
    wait_until_all_work(apps, 200).await;
    scene.freeze_in_transaction(apps).await;
    do_and_wait_until_noticed(apps, || {
        kafka.kill().unwrap();
        for app in apps {
            app.signal(Signal::Cont).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_with_transactions_open_ends_nobody() {
    let kafka = Kafka::start(impatient().local().quick_restart()).unwrap();
    let scene = scene(&kafka)
        .await
        .writing_at_once()
        .with(TRANSACTION_TIMEOUT.0, TRANSACTION_TIMEOUT.1);
    let load = scene.load(1_000);
    let (one, other) = (scene.start("one"), scene.start("other"));
    let apps = [&one, &other];
    let times = given::times(2);
    for _ in 0..times {
        // What is open outlives the broker: it is committed or aborted when that is back.
        dies_in_transactions(&kafka, &scene, &apps).await;
        kafka.restart().unwrap();
        wait_until_passed_again(&scene).await;
        scene.wait_until_caught_up().await;
    }
    given::bitten(times, "the broker killed with transactions open");
    let inputs = load.stop().await;
    scene.finish(&inputs, &apps).await;
}

/// For so long that members of KIP-848 ask who has their place, and have no answer. librdkafka ends a process that asks as is
/// usual, once the broker is back (its issue #4605).
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_for_long_ends_nobody_in_kip_848() {
    let kafka = Kafka::start(impatient().local().quick_restart()).unwrap();
    let scene = scene(&kafka)
        .await
        .in_consumer_protocol()
        .writing_at_once()
        .with("RUST_LOG", "info,orchestrator_runtime::kafka::place=debug")
        .with(TRANSACTION_TIMEOUT.0, TRANSACTION_TIMEOUT.1);
    let load = scene.load(500);
    let (one, other) = (scene.start("one"), scene.start("other"));
    let apps = [&one, &other];
    dies_in_transactions(&kafka, &scene, &apps).await;
    for app in apps {
        let asked = app.wait_for_line(LIMIT, |line| line.contains("cannot be found out"));
        asked.await.unwrap();
    }
    kafka.restart().unwrap();
    wait_until_passed_again(&scene).await;
    given::bitten(1, "the broker away while members ask for their place");
    let inputs = load.stop().await;
    scene.finish(&inputs, &apps).await;
}

/// Who waits to connect again waits by the wall clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_after_the_clock_was_set_back_is_found() {
    let kafka = Kafka::start(impatient().local().quick_restart()).unwrap();
    let clock = Arc::new(WallClock::new().unwrap());
    let scene = scene(&kafka)
        .await
        .going_by(&clock)
        .writing_at_once()
        .with(TRANSACTION_TIMEOUT.0, TRANSACTION_TIMEOUT.1);
    let load = scene.load(500);
    let app = scene.start("one");
    dies_in_transactions(&kafka, &scene, &[&app]).await;
    step(&clock, -HOUR).await;
    kafka.restart().unwrap();
    wait_until_passed_again(&scene).await;
    given::bitten(1, "the clock set back while the broker was away");
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
}

/// By SIGTERM, as for an upgrade, whatever is under way: a transaction that is committed just then may have an unknown
/// outcome.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_told_to_end_ends_nobody() {
    let options = impatient().local().quick_restart();
    let kafka = Kafka::start(options.log_level(FORGETFUL, "info")).unwrap();
    let times = given::times(1);
    let (mut bitten, mut void) = (0, 0);
    while bitten < times {
        if a_broker_is_told_to_end(&kafka).await {
            bitten += 1;
        } else {
            void += 1;
            println!("void: Kafka forgot transaction markers (KAFKA-20734)");
        }
        assert!(
            void <= VOID_MAX * times,
            "Kafka forgot transaction markers in {void} of {} runs (KAFKA-20734)",
            void + bitten
        );
    }
    given::bitten(times, "the broker told to end");
}

/// Whether the broker did its part.
async fn a_broker_is_told_to_end(kafka: &Kafka) -> bool {
    let scene = scene(kafka).await;
    let scene = scene.with(TRANSACTION_TIMEOUT.0, TRANSACTION_TIMEOUT.1);
    let load = scene.load(1_000);
    let (one, other) = (scene.start("one"), scene.start("other"));
    let apps = [&one, &other];
    wait_until_all_work(&apps, 200).await;
    let before = times_forgotten(kafka);
    do_and_wait_until_noticed(&apps, || kafka.terminate().unwrap()).await;
    kafka.restart().unwrap();
    // It forgets them before it answers.
    if times_forgotten(kafka) > before {
        load.stop().await;
        return false;
    }
    wait_until_passed_again(&scene).await;
    scene.wait_until_caught_up().await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &apps).await;
    true
}

/// Waits for the first commit since the broker is back, which has to come soon.
async fn wait_until_passed_again(scene: &Scene) {
    let started = Instant::now();
    scene.wait_for_progress(1).await;
    let after = started.elapsed();
    given::resumed(after);
    assert!(after <= SOON, "the first commit came after {after:?}");
}

fn times_forgotten(kafka: &Kafka) -> usize {
    let log = kafka.folder().unwrap().join("broker.log");
    std::fs::read_to_string(log)
        .unwrap()
        .matches(FORGETS)
        .count()
}

/// Longer than anybody waits for an answer, but not so long that the broker fences itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_falls_silent_ends_nobody() {
    let kafka = Kafka::start(KafkaOptions::new().local()).unwrap();
    let scene = scene(&kafka)
        .await
        .with("ORCH_KAFKA_CONSUMER_SESSION_TIMEOUT_MS", "6000")
        .with("ORCH_KAFKA_SOCKET_TIMEOUT_MS", "1000");
    let load = scene.load(1_000);
    let (one, other) = (scene.start("one"), scene.start("other"));
    let apps = [&one, &other];
    let times = given::times(3);
    for _ in 0..times {
        wait_until_all_work(&apps, 200).await;
        do_and_wait_until_noticed(&apps, || kafka.pause().unwrap()).await;
        kafka.resume().unwrap();
        scene.wait_until_caught_up().await;
    }
    given::bitten(times, "the broker silent for a while");
    let inputs = load.stop().await;
    scene.finish(&inputs, &apps).await;
}
