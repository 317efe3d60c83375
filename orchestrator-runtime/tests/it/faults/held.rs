//! A held partition that goes from member to member: whoever gets it finds it held again at the same record, while the
//! other partitions flow, until the record is dead-lettered on request.

use std::collections::BTreeMap;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::Process;
use orchestrator_testkit::wait;

use super::exact::{Fate, Input};
use super::load::Load;
use super::scene::{LIMIT, Scene, drain, shared};
use super::served::{held, wait_until_all_work};

/// So many that each of three members has one that flows.
const PARTITIONS: i32 = 7;
/// The one with the poison.
const HELD: i32 = 0;
const HELD_AT: i64 = 50;

/// A hundred orders to the partition that will be held, one of them poison.
pub(super) async fn write_poison(scene: &Scene) -> Vec<Input> {
    let orders = Orders::new(5).range(0..100).map(|order| {
        let poison = order.index == HELD_AT as u64;
        let record = order.into_record().partition(HELD);
        if poison {
            return (record.header("x-fault", "permanent"), Fate::DeadLetter);
        }
        let fate = Fate::of_order(record.value.as_deref().unwrap());
        (record, fate)
    });
    scene.write(0, orders.collect()).await
}

/// Waits until the partition is held by one of these, and by no other.
pub(super) async fn wait_until_held_by_one(processes: &[&Process]) {
    let expected = BTreeMap::from([(i64::from(HELD), (HELD_AT, "poison".to_owned()))]);
    let what = format!("one of {processes:?} holds {expected:?}");
    wait::until(&what, LIMIT, async || {
        let mut all = Vec::new();
        for process in processes {
            all.extend(Some(held(process).await).filter(|held| !held.is_empty()));
        }
        all == [expected.clone()]
    })
    .await
    .unwrap();
}

async fn a_held_partition_moves(scene: Scene) {
    let scene = scene
        .with("ORCH_ATOMIC_ON_POISON", "BLOCK")
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0");
    let mut inputs = write_poison(&scene).await;
    let others = (0..PARTITIONS).filter(|partition| *partition != HELD);
    let load = Load::start_sound(&scene.bootstrap, &scene.sources[0], 500, others.collect());

    let first = scene.start("first");
    wait_until_held_by_one(&[&first]).await;
    let (second, third) = (scene.start("second"), scene.start("third"));
    wait_until_all_work(&[&first, &second, &third], 50).await;
    wait_until_held_by_one(&[&first, &second, &third]).await;
    // Wherever it was: in the end it has moved, as the first leaves, and then the second.
    drain(&first).await;
    wait_until_held_by_one(&[&second, &third]).await;
    wait_until_all_work(&[&second, &third], 50).await;
    drain(&second).await;
    wait_until_held_by_one(&[&third]).await;
    wait_until_all_work(&[&third], 50).await;

    let flowed = load.stop().await;
    let mut meanwhile = inputs.clone();
    for input in &mut meanwhile[HELD_AT as usize..] {
        input.fate = Fate::Nothing;
    }
    meanwhile.extend(flowed.iter().cloned());
    scene.finish(&meanwhile, &[&third]).await;

    inputs.extend(flowed);
    let place = format!("{}:{HELD}:{HELD_AT}", scene.sources[0]);
    let freeing = scene.with("ORCH_DEAD_LETTER_RECORDS", place);
    let last = freeing.start("last");
    freeing.finish(&inputs, &[&last]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_partition_moves_in_cooperative_sticky() {
    a_held_partition_moves(Scene::new(shared(), 1, PARTITIONS).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_partition_moves_in_kip_848() {
    let scene = Scene::new(shared(), 1, PARTITIONS).await;
    a_held_partition_moves(scene.in_consumer_protocol()).await;
}
