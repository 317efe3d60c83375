//! Bugs that are planted in the program under test: the judgement of these tests must find them on a real Kafka, as
//! it must find nothing in the same program without them.

use std::collections::HashSet;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::{Process, Signal};
use orchestrator_testkit::wait;

use super::exact::{Fate, Input};
use super::scene::{LIMIT, Scene, shared};

/// Not the name of a bug.
const NONE: &str = "None";
const ORDERS_EACH: u64 = 200;

fn start(scene: &Scene, bug: &str) -> Process {
    let program = scene.program_built_with(&["orchestrator-runtime/planted-bugs"]);
    let program = program
        .env("ORCH_INSTANCE_ID", "solo")
        .env("ORCHESTRATOR_PLANTED_BUG", bug);
    program.start().unwrap()
}

async fn write(scene: &Scene, first: u64) -> Vec<Input> {
    let orders = Orders::new(3).range(first..first + ORDERS_EACH);
    let records = orders.map(|order| {
        let fate = Fate::of_order(order.value.as_bytes());
        (order.into_record(), fate)
    });
    scene.write(0, records.collect()).await
}

/// Waits until each of these has become what it has to become, at least once.
async fn wait_until_done(scene: &Scene, inputs: &[Input]) {
    wait::until("every input is an output", LIMIT, async || {
        let (outputs, _) = scene.visible().await;
        let seen: HashSet<_> = outputs.iter().filter_map(|o| o.value.as_deref()).collect();
        let is_done = |input: &Input| match &input.fate {
            Fate::Output(value) => seen.contains(value.as_slice()),
            Fate::DeadLetter | Fate::Nothing => true,
        };
        inputs.iter().all(is_done)
    })
    .await
    .unwrap();
}

/// Ends well, however wrong it was.
async fn end(process: &Process) {
    process.signal(Signal::Term).unwrap();
    process.wait(LIMIT).await.unwrap();
}

/// Some orders, a restart, and some more: what the judgement says of it.
async fn judged_after_a_restart(bug: &str) -> Result<(), String> {
    let scene = Scene::new(shared(), 1, 2).await;
    let mut inputs = Vec::new();
    for run in 0..2 {
        inputs.extend(write(&scene, run * ORDERS_EACH).await);
        let app = start(&scene, bug);
        wait_until_done(&scene, &inputs).await;
        end(&app).await;
    }
    scene.judge(&inputs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bug_nothing_is_found() {
    judged_after_a_restart(NONE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_not_sent_are_found() {
    let found = judged_after_a_restart("NoSendOffsets").await.unwrap_err();
    // All of the first run was done again.
    let doubled = format!("\"doubled\": {ORDERS_EACH}");
    assert!(found.contains(&doubled), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_offset_instead_of_the_next_is_found() {
    let found = judged_after_a_restart("LastInsteadOfNext")
        .await
        .unwrap_err();
    // The last of each partition was done again.
    assert!(found.contains("\"doubled\": 2"), "{found}");
}
