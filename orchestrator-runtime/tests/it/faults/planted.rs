//! Bugs that are planted in the program under test: the judgement of these tests must find them on a real Kafka, as
//! it must find nothing in the same program without them.

use std::collections::HashSet;
use std::time::Duration;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::{Process, Program, Signal};
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;
use sqlx::Executor;

use super::exact::{Fate, Input, check};
use super::held::{wait_until_held_by_one, write_poison};
use super::rows;
use super::scene::{LIMIT, Scene, shared};

/// Not the name of a bug.
pub(super) const NONE: &str = "None";
const ORDERS_EACH: u64 = 200;
/// Far more than a program without a bug needs.
const PATIENCE: Duration = Duration::from_secs(15);

/// The program under its one name, with that bug.
pub(super) fn start(scene: &Scene, bug: &str) -> Process {
    program(scene, bug).start().unwrap()
}

fn program(scene: &Scene, bug: &str) -> Program {
    scene
        .program_built_with(&["orchestrator-runtime/test-faults"])
        .env("ORCH_INSTANCE_ID", "solo")
        .env("ORCHESTRATOR_PLANTED_BUG", bug)
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

/// The broker refuses an output that it would have taken a moment ago; what comes after must still be done.
async fn judged_after_a_refusal(bug: &str) -> Result<(), String> {
    let scene = Scene::new(shared(), 1, 1)
        .await
        .with("ORCH_KAFKA_PRODUCER_COMPRESSION_TYPE", "none");
    let app = start(&scene, bug);
    let mut inputs = write(&scene, 0).await;
    wait_until_done(&scene, &inputs).await;
    let limit = [("max.message.bytes", "1000")];
    let limited = scene.admin.configure_topic(&scene.target, &limit);
    limited.await.unwrap();
    let too_large = Orders::new(3).bytes(2_000).order(ORDERS_EACH);
    let too_large = vec![(too_large.into_record(), Fate::DeadLetter)];
    inputs.extend(scene.write(0, too_large).await);
    inputs.extend(write(&scene, ORDERS_EACH + 1).await);
    let all_done = wait::until("all is passed", PATIENCE, async || {
        scene.judge(&inputs).await.is_ok()
    });
    // It tells why not better than the wait does.
    let judged = match all_done.await {
        Ok(()) => Ok(()),
        Err(_) => scene.judge(&inputs).await,
    };
    app.kill().await.unwrap();
    judged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_is_kept_after_a_refusal_is_found() {
    judged_after_a_refusal(NONE).await.unwrap();
    let found = judged_after_a_refusal("ProducerKept").await.unwrap_err();
    assert!(found.contains("missing"), "{found}");
}

/// That the same without the bug is exact is what the tests of kills show.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_the_consumer_commits_are_found() {
    // After its first commit the pipeline has none for a minute: what progress there is is the consumer's.
    let scene = Scene::new(shared(), 1, 2).await;
    let load = scene.load(500);
    let app = program(&scene, "CommittedByConsumer").env("ORCH_COMMIT_INTERVAL_MS", "60000");
    let app = app.start().unwrap();
    scene.wait_for_progress(500).await;
    app.kill().await.unwrap();
    let inputs = load.stop().await;
    let app = start(&scene, NONE);
    scene.wait_until_passed(&inputs).await;
    end(&app).await;
    let found = scene.judge(&inputs).await.unwrap_err();
    assert!(found.contains("missing"), "{found}");
}

/// That the same without the bug is exact is what the tests of held partitions show.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_record_that_is_skipped_is_found() {
    let scene = Scene::new(shared(), 1, 1)
        .await
        .with("ORCH_ATOMIC_ON_POISON", "BLOCK")
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0");
    let inputs = write_poison(&scene).await;
    let app = start(&scene, NONE);
    wait_until_held_by_one(&[&app]).await;
    end(&app).await;
    let app = start(&scene, "HeldSkipped");
    scene.wait_until_passed(&inputs).await;
    end(&app).await;
    let found = scene.judge(&inputs).await.unwrap_err();
    assert!(found.contains("missing"), "{found}");
}

/// Failures wait in the journal of a process that is dead when the database is there again: how many of them get no row.
async fn rows_missing_after_a_kill(bug: &str) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.db");
    let scene = rows::noted_in(Scene::new(shared(), 1, 2).await, &ledger)
        .with("ORCH_FAILURE_MODE", "SKIP_AND_LOG")
        .with(
            "ORCH_SPILL_DIR",
            folder.path().join("spill").display().to_string(),
        );
    let load = scene.load(1_000);
    // It makes the table.
    let app = start(&scene, NONE);
    scene.wait_for_progress(500).await;
    end(&app).await;
    let mut rival = rows::open(&ledger).await;
    rival.execute("BEGIN IMMEDIATE").await.unwrap();
    let app = start(&scene, NONE);
    scene.wait_for_progress(3_000).await;
    app.kill().await.unwrap();
    rival.execute("ROLLBACK").await.unwrap();
    let app = start(&scene, bug);
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
    rows::to_fail(&inputs) - rows::failed(&mut rival).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_thrown_away_is_found() {
    assert_eq!(rows_missing_after_a_kill(NONE).await, 0);
    assert!(rows_missing_after_a_kill("SpillTruncated").await > 0);
}

/// A bug of the judgement itself.
#[tokio::test(flavor = "multi_thread")]
async fn reading_what_was_aborted_is_found() {
    let scene = Scene::new(shared(), 1, 2).await.writing_at_once();
    let load = scene.load(1_000);
    let app = start(&scene, NONE);
    scene.wait_for_progress(200).await;
    scene.freeze_in_transaction(&[&app]).await;
    app.kill().await.unwrap();
    let app = start(&scene, NONE);
    scene.wait_for_progress(200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
    let (_, letters) = scene.visible().await;
    let all = scene.read(&scene.target, Isolation::Uncommitted).await;
    let found = check(&inputs, &all, &letters).unwrap_err();
    assert!(found.contains("doubled"), "{found}");
}
