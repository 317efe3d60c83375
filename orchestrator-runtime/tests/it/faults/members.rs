//! Members come and go under load, in both group protocols: one process, three, and one again.

use super::scene::{Scene, drain, shared};
use super::served::wait_until_all_work;

const PARTITIONS: i32 = 6;
/// Two of three are gone in the end, and then comes another round.
const ROUNDS: usize = 2;

async fn one_three_one(scene: Scene) {
    // A killed one's open transaction keeps its partitions from their next owner until it has timed out.
    let scene = scene
        .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "2000")
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0");
    let load = scene.load(1_000);
    let first = scene.start("first");
    scene.wait_for_progress(500).await;
    for round in 0..ROUNDS {
        let leaves = scene.start(&format!("leaves-{round}"));
        let dies = scene.start(&format!("dies-{round}"));
        wait_until_all_work(&[&first, &leaves, &dies], 100).await;
        drain(&leaves).await;
        dies.kill().await.unwrap();
        // Whatever partition it came from: the first alone has passed all that was there.
        scene.wait_until_caught_up().await;
    }
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&first]).await;
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
