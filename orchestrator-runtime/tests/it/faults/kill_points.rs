//! Processes that kill themselves at a named point of their work, one after the other under the same name, while orders
//! keep coming. Each has to die there, or the test is void and fails.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Instant;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::{Process, SIGKILL, Signal};
use sqlx::Executor;

use super::exact::Fate;
use super::given;
use super::rows;
use super::scene::{LIMIT, Scene, shared};

/// Points that a process passes while it works, and how often at the most it passes one before it dies there.
const AT_WORK: [(&str, u64); 11] = [
    ("Initialised", 2),
    ("Gathered", 40),
    ("Begun", 20),
    ("Sending", 1500),
    ("OffsetsSent", 20),
    ("Delivered", 20),
    ("Committing", 20),
    ("Committed", 20),
    ("Reported", 20),
    ("WritingRows", 3),
    ("RowsWritten", 3),
];
const PER_SECOND: u32 = 1_000;
/// Longer than a test: only the restart under the same name can end what the killed one left open.
const TRANSACTION_TIMEOUT_MS: &str = "59000";

async fn scene(mode: &str, partitions: i32, ledger: &Path) -> Scene {
    rows::noted_in(Scene::new(shared(), 1, partitions).await, ledger)
        .with("ORCH_FAILURE_MODE", mode)
        .with(
            "ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS",
            TRANSACTION_TIMEOUT_MS,
        )
        // Killed so often in a row, no record could but look guilty.
        .with("ORCH_CRASH_QUARANTINE_AFTER", "0")
}

/// The program that kills itself when it passes a point for the nth time; never by itself if there is none.
fn start(scene: &Scene, point: Option<(&str, u64)>) -> Process {
    let program = scene
        .program_built_with(&["orchestrator-runtime/test-faults"])
        .env("ORCH_INSTANCE_ID", "solo");
    let program = match point {
        Some((name, passes)) => program.env("ORCHESTRATOR_KILL_POINT", format!("{name}:{passes}")),
        None => program,
    };
    program.start().unwrap()
}

async fn dies(process: &Process, point: (&str, u64)) {
    let status = process.wait(LIMIT).await.unwrap();
    let signal = status.signal();
    assert_eq!(signal, Some(SIGKILL), "void: {point:?} ended with {status}");
    given::bitten(1, &format!("killed at {} {}", point.0, point.1));
}

async fn killed_at_every_point(mode: &str) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.db");
    let scene = scene(mode, 4, &ledger).await;
    let mut random = fastrand::Rng::with_seed(given::seed());
    let mut points = AT_WORK.map(|(name, most)| (name, random.u64(1..=most)));
    random.shuffle(&mut points);
    let load = scene.load(PER_SECOND);
    for point in points {
        let app = start(&scene, Some(point));
        dies(&app, point).await;
    }
    let leaving = ("Revoking", 1);
    let app = start(&scene, Some(leaving));
    scene.wait_for_progress(200).await;
    app.signal(Signal::Term).unwrap();
    dies(&app, leaving).await;

    let started = Instant::now();
    let app = start(&scene, None);
    scene.wait_for_progress(1).await;
    given::resumed(started.elapsed());
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
    rows::wait_until_each_failure_has_one(&ledger, &inputs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_pipeline_is_exact_wherever_it_is_killed() {
    killed_at_every_point("ATOMIC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_skips_is_exact_wherever_it_is_killed() {
    killed_at_every_point("SKIP_AND_LOG").await;
}

/// A transaction is aborted because the broker refuses one of its outputs, which it would have taken a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_exact_though_it_is_killed_around_an_abort() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.db");
    let scene = scene("ATOMIC", 1, &ledger).await;
    let scene = scene.with("ORCH_KAFKA_PRODUCER_COMPRESSION_TYPE", "none");
    let limit = async |bytes: &str| {
        let limit = [("max.message.bytes", bytes)];
        let limited = scene.admin.configure_topic(&scene.target, &limit);
        limited.await.unwrap();
    };
    let mut inputs = Vec::new();
    for (round, point) in [("Aborting", 1), ("Aborted", 1)].into_iter().enumerate() {
        limit("1000000").await;
        let app = start(&scene, Some(point));
        let first = 100 * round as u64;
        let orders = Orders::new(3).range(first..first + 50);
        let orders = orders.map(|order| {
            let fate = Fate::of_order(order.value.as_bytes());
            (order.into_record(), fate)
        });
        inputs.extend(scene.write(0, orders.collect()).await);
        scene.wait_until_caught_up().await;
        limit("1000").await;
        let too_large = Orders::new(3).bytes(2_000).order(first + 50);
        // The next one may write what was too large for this one.
        let fate = match round {
            0 => Fate::of_order(too_large.value.as_bytes()),
            _ => Fate::DeadLetter,
        };
        let too_large = vec![(too_large.into_record(), fate)];
        inputs.extend(scene.write(0, too_large).await);
        dies(&app, point).await;
    }
    let app = start(&scene, None);
    scene.finish(&inputs, &[&app]).await;
    rows::wait_until_each_failure_has_one(&ledger, &inputs).await;
}

/// The database is locked while rows are spilled, and there again while they are written back.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_exact_though_it_is_killed_around_its_spill_journal() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.db");
    let spill = folder.path().join("spill");
    let scene = scene("SKIP_AND_LOG", 4, &ledger)
        .await
        .with("ORCH_SPILL_DIR", spill.display().to_string())
        .with("ORCH_DB_CIRCUIT_OPEN_MS", "500");
    let load = scene.load(PER_SECOND);
    let app = start(&scene, Some(("RowsWritten", 2)));
    dies(&app, ("RowsWritten", 2)).await;

    let mut rival = rows::open(&ledger).await;
    rival.execute("BEGIN IMMEDIATE").await.unwrap();
    for point in [
        ("Spilling", 1),
        ("Spilling", 3),
        ("Spilled", 1),
        ("Spilled", 4),
    ] {
        let app = start(&scene, Some(point));
        dies(&app, point).await;
    }
    rival.execute("ROLLBACK").await.unwrap();
    let written_back = ("BackFilled", 1);
    let app = start(&scene, Some(written_back));
    dies(&app, written_back).await;

    let app = start(&scene, None);
    scene.wait_for_progress(200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
    rows::wait_until_each_failure_has_one(&ledger, &inputs).await;
}
