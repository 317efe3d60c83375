//! What a process counts, held against what an auditor finds that shares nothing with it.

use orchestrator_testkit::audit::{Auditor, compare_metrics};
use tokio::task::spawn_blocking;

use super::rows;
use super::scene::{Scene, drain, shared};
use super::served::{address, wait_until_all_work};

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_an_audit_counts() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.db");
    let scene = rows::noted_in(Scene::new(shared(), 1, 4).await, &ledger)
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0")
        .with("ORCH_FAILURE_MODE", "SKIP_AND_LOG");
    let app = scene.start("one");
    let load = scene.load(1_000);
    wait_until_all_work(&[&app], 2_000).await;
    let (written, poison) = load.stop_and_count().await;
    scene.wait_until_caught_up().await;
    let metrics = format!("http://{}/metrics", address(&app).await);
    let scope = scene.audited(&rows::url(&ledger));
    let audited = spawn_blocking(move || {
        let (client, group) = (scope.client.clone(), scope.group.clone());
        let mut auditor = Auditor::new(scope).unwrap();
        auditor.last_pass().unwrap();
        let counts = auditor.counts();
        let differences = compare_metrics(&client, &[metrics], &group, &counts).unwrap();
        (auditor.verdict(), differences)
    });
    let (verdict, differences) = audited.await.unwrap();
    assert!(
        verdict.is_clean() && differences.is_empty(),
        "{verdict:?} {differences:?}"
    );
    assert!(poison > 0, "void: nothing failed");
    let counts = verdict.counts;
    assert_eq!((counts.records, counts.failed), (written, poison));
    drain(&app).await;
}
