//! Processes that are killed with a transaction open, and start again under the same name.

use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;

use super::scene::{LIMIT, Scene, shared};

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
    let app = scene.start("solo");
    wait::until("the open transaction is aborted", LIMIT, async || {
        !scene.has_open_transaction().await
    })
    .await
    .unwrap();
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;

    let written = scene.read(&scene.target, Isolation::Uncommitted).await;
    let visible = scene.read(&scene.target, Isolation::Committed).await;
    assert!(
        written.len() >= visible.len() + KILLS,
        "{KILLS} transactions were cut short, but only {} outputs were aborted",
        written.len() - visible.len(),
    );
}
