//! Members come and go under load, in both group protocols: one process, three, and one again. Meanwhile the group may
//! get slower, but never for long.

use super::given;
use super::pace::Pace;
use super::scene::{Scene, drain, shared};
use super::served::{counted, wait_until_all_work};

const PARTITIONS: i32 = 6;
const PER_SECOND: u32 = 1_000;
/// Counts its calls, assign, revoke or lost.
const REBALANCES: &str = "orch_rebalances_total";
/// Two members come, one leaves, and one dies.
const REBALANCES_A_ROUND: u64 = 4;
/// Somebody comes, somebody leaves, and somebody dies: each time the first has other partitions. Who come at once may share
/// a rebalance.
const SEEN_A_ROUND: u64 = 3;
/// Of its load, in any five seconds.
const SLOWEST_PERCENT: i64 = 20;

async fn one_three_one(scene: Scene) {
    // A killed one's open transaction keeps its partitions from their next owner until it has timed out.
    let scene = scene
        .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "2000")
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0");
    let load = scene.load(PER_SECOND);
    let first = scene.start("first");
    scene.wait_for_progress(500).await;
    let pace = Pace::watch(&scene);
    let before = counted(&first, REBALANCES).await;
    let rounds = given::times(2 * REBALANCES_A_ROUND).div_ceil(REBALANCES_A_ROUND);
    for round in 0..rounds {
        let leaves = scene.start(&format!("leaves-{round}"));
        let dies = scene.start(&format!("dies-{round}"));
        wait_until_all_work(&[&first, &leaves, &dies], 100).await;
        drain(&leaves).await;
        dies.kill().await.unwrap();
        // Whatever partition it came from: the first alone has passed all that was there.
        scene.wait_until_caught_up().await;
    }
    let seen = counted(&first, REBALANCES).await - before;
    assert!(
        seen >= rounds * SEEN_A_ROUND,
        "void: only {seen} rebalances in {rounds} rounds"
    );
    given::bitten(rounds * REBALANCES_A_ROUND, "rebalances");
    let slowest = pace.slowest_percent(PER_SECOND).await;
    given::slowest(slowest);
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&first]).await;
    assert!(slowest >= SLOWEST_PERCENT, "it was down to {slowest} %");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_three_one_in_cooperative_sticky() {
    one_three_one(Scene::new(shared(), 1, PARTITIONS).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_three_one_in_kip_848() {
    let scene = Scene::new(shared(), 1, PARTITIONS).await;
    one_three_one(scene.in_consumer_protocol()).await;
}
