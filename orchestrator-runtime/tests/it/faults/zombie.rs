//! A process that stands still with a transaction open while another takes over, and then goes on as if nothing had
//! happened.

use std::collections::BTreeSet;

use orchestrator_testkit::process::{Process, Signal};
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;

use super::given;
use super::scene::{LIMIT, Scene, drain, shared};
use super::served::{counted, wait_until_all_work};

const PARTITIONS: i32 = 4;
/// Counts producers that were given up.
const REPLACED: &str = "orch_producer_replaced_total";
/// To stop a process in a transaction.
const TRIES: u32 = 5;

async fn scene(transaction_timeout_ms: &str) -> Scene {
    Scene::new(shared(), 1, PARTITIONS)
        .await
        .with(
            "ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS",
            transaction_timeout_ms,
        )
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0")
        .writing_at_once()
}

/// The broker has aborted its transaction, and the group has given its partitions away, when it goes on.
async fn a_zombie_past_the_transaction_timeout(scene: Scene) {
    let load = scene.load(500);
    let zombie = scene.start("zombie");
    let times = given::times(1);
    let mut cut_short = 0;
    for nth in 0..times {
        let before = counted(&zombie, REPLACED).await;
        cut_short = freeze_and_cut_short(&scene, &zombie, cut_short).await;

        let heir = scene.start(&format!("heir-{nth}"));
        scene.wait_until_caught_up().await;
        // All of it was done by the heir, so the zombie has nothing left to commit.
        zombie.signal(Signal::Cont).unwrap();
        // It was no twin that fenced it, so it goes on, as a member of the group again.
        wait_until_all_work(&[&zombie, &heir], 50).await;
        let after = counted(&zombie, REPLACED).await;
        assert!(after > before, "void: its producer was good enough");
        drain(&heir).await;
    }
    given::bitten(times, "stopped past its transaction time-out");
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&zombie]).await;

    let aborted = invisible(&scene).await;
    assert!(
        aborted >= cut_short,
        "{cut_short} outputs were in the zombie's transactions, but only {aborted} were aborted"
    );
}

/// Stops it in a transaction that the broker aborts, and says how many outputs were cut short so far.
async fn freeze_and_cut_short(scene: &Scene, zombie: &Process, before: usize) -> usize {
    for _ in 0..TRIES {
        wait_until_all_work(&[zombie], 100).await;
        scene.freeze_in_transaction(&[zombie]).await;
        let cut_short = invisible(scene).await;
        if cut_short > before {
            return cut_short;
        }
        // It had been committed: only the markers were late, on a broker that was busy.
        zombie.signal(Signal::Cont).unwrap();
    }
    panic!("void: no transaction was cut short");
}

/// How many outputs were written that nobody may read (yet).
async fn invisible(scene: &Scene) -> usize {
    let written = scene.read(&scene.target, Isolation::Uncommitted).await;
    let visible = scene.read(&scene.target, Isolation::Committed).await;
    written.len() - visible.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_past_the_transaction_timeout_in_cooperative_sticky() {
    a_zombie_past_the_transaction_timeout(scene("2000").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_past_the_transaction_timeout_in_kip_848() {
    a_zombie_past_the_transaction_timeout(scene("2000").await.in_consumer_protocol()).await;
}

/// Its transaction is open all the time: what it holds nobody else may pass until it is committed or aborted.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_within_the_transaction_timeout() {
    let scene = scene("59000").await;
    let load = scene.load(1_000);
    let zombie = scene.start("zombie");
    wait_until_all_work(&[&zombie], 200).await;
    scene.freeze_in_transaction(&[&zombie]).await;
    let heir = scene.start("heir");
    let heir_alone = BTreeSet::from([format!("{}-heir-0", scene.group)]);
    wait::until("the group has given all to the heir", LIMIT, async || {
        let members = scene.admin.stable_members(&scene.group).await;
        members.unwrap() == heir_alone
    })
    .await
    .unwrap();
    assert!(
        scene.has_open_transaction().await,
        "the zombie's transaction has ended"
    );
    zombie.signal(Signal::Cont).unwrap();
    wait_until_all_work(&[&zombie, &heir], 100).await;
    given::bitten(1, "stopped within its transaction time-out");
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&zombie, &heir]).await;
}
