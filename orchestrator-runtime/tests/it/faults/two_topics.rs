//! Two source topics with the same partition numbers and offsets: one unit of work, and no place of one is mistaken
//! for the same place of the other.

use std::collections::BTreeSet;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::reader::Isolation;

use super::exact::{Fate, Input};
use super::scene::{LIMIT, Scene, drain, shared};

/// How many transactions have to be cut short: of most, outputs of both topics have been written by then.
const KILLS: usize = 4;
const HELD_AT: i64 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_two_topics_is_exact_for_both() {
    // Longer than this test: only the restart under the same name can end what the killed one left open.
    let scene = Scene::new(shared(), 2, 3)
        .await
        .writing_at_once()
        .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "59000");
    let loads = [scene.load_into(0, 1_000), scene.load_into(1, 1_000)];
    let mut kills = 0;
    while kills < KILLS {
        let app = scene.start("solo");
        scene.wait_for_progress(200).await;
        scene.freeze_in_transaction(&[&app]).await;
        app.kill().await.unwrap();
        kills += usize::from(scene.has_open_transaction().await);
    }
    let app = scene.start("solo");
    scene.wait_for_progress(200).await;
    let mut inputs = Vec::new();
    for load in loads {
        inputs.extend(load.stop().await);
    }
    scene.finish(&inputs, &[&app]).await;

    // What was cut short was a unit of both topics, and nothing of it is seen.
    let written = scene.read(&scene.target, Isolation::Uncommitted).await;
    let visible = scene.read(&scene.target, Isolation::Committed).await;
    let visible: BTreeSet<_> = visible.iter().map(|r| (r.partition, r.offset)).collect();
    let mut cut_short = BTreeSet::new();
    for record in written {
        if !visible.contains(&(record.partition, record.offset)) {
            let of = |input: &&Input| Fate::Output(record.value.clone().unwrap()) == input.fate;
            cut_short.insert(inputs.iter().find(of).unwrap().topic.clone());
        }
    }
    assert_eq!(
        cut_short.len(),
        2,
        "only of {cut_short:?} was anything aborted"
    );
}

/// A hundred orders to each partition of each topic. The one at `HELD_AT` of partition 0 of the first topic is poison.
async fn one_is_poison(scene: &Scene) -> Vec<Input> {
    let mut inputs = Vec::new();
    for source in 0..2 {
        let first = 1_000 * u64::try_from(source).unwrap();
        let records = Orders::new(11).range(first..first + 200).map(|order| {
            let (partition, offset) = (order.index % 2, (order.index - first) / 2);
            let record = order.into_record().partition(partition as i32);
            if (source, partition, offset) == (0, 0, HELD_AT as u64) {
                return (record.header("x-fault", "permanent"), Fate::DeadLetter);
            }
            let fate = Fate::of_order(record.value.as_deref().unwrap());
            (record, fate)
        });
        inputs.extend(scene.write(source, records.collect()).await);
    }
    inputs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_place_of_one_topic_is_not_that_of_the_other() {
    let scene = Scene::new(shared(), 2, 2).await;
    let blocking = scene.with("ORCH_ATOMIC_ON_POISON", "BLOCK");
    let inputs = one_is_poison(&blocking).await;
    let held_topic = blocking.sources[0].clone();
    let is_held = |input: &Input| {
        input.topic == held_topic && input.at.partition == 0 && input.at.offset >= HELD_AT
    };
    let mut meanwhile = inputs.clone();
    for input in meanwhile.iter_mut().filter(|input| is_held(input)) {
        input.fate = Fate::Nothing;
    }
    let place = format!("{held_topic}:0:{HELD_AT}");
    let app = blocking.start("solo");
    blocking.wait_until_passed(&meanwhile).await;
    let held = app.wait_for_line(LIMIT, |line| line.contains(&place));
    held.await.unwrap();
    drain(&app).await;
    blocking.judge(&meanwhile).await.unwrap();

    // Freed by its topic's name: only that record is a dead letter, though the other topic has the same place.
    let freeing = blocking.with("ORCH_DEAD_LETTER_RECORDS", place);
    let app = freeing.start("solo");
    freeing.finish(&inputs, &[&app]).await;
}
