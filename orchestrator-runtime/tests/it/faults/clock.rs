//! A wall clock that is stepped, by hand or by NTP, forward and back. librdkafka waits until a time of that clock, so that a
//! clock that is set back makes its threads sleep for as long (librdkafka issue #2145) unless something wakes them.
//! Records go on soon nevertheless, whether there is much to do or nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_testkit::process::Process;
use orchestrator_testkit::usage;
use orchestrator_testkit::wait;
use orchestrator_testkit::wall_clock::WallClock;
use serde_json::Value;

use super::given;
use super::rows;
use super::scene::{LIMIT, Scene, shared};
use super::served::wait_until_all_work;

const PARTITIONS: i32 = 4;
const PER_SECOND: u32 = 500;
pub(crate) const HOUR: i64 = 3_600;
/// Where the clock is stepped to, in hours from what is right: forward, back, far ahead, back again.
const STEPS: [i64; 4] = [2, -1, 24, 0];
/// How long records may not be passed: a transaction thread that sleeps is waited for for 5 s.
const SOON: Duration = Duration::from_secs(15);
/// What is logged when a clock was set back.
const SET_BACK: &str = "the wall clock was set back";
/// Threads that come and go. Clients that are left asleep have twelve.
const FEW_THREADS: u64 = 6;

async fn records_go_on(scene: Scene) {
    let clock = Arc::new(WallClock::new().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.db");
    let scene = rows::noted_in(scene, &ledger)
        .going_by(&clock)
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0")
        .with("ORCH_FAILURE_MODE", "SKIP_AND_LOG");
    let load = scene.load(PER_SECOND);
    let (one, other) = (scene.start("one"), scene.start("other"));
    let apps = [&one, &other];
    wait_until_all_work(&apps, 200).await;
    let threads = apps.map(threads);
    let mut steps = 0;
    for _ in 0..given::times(STEPS.len() as u64).div_ceil(STEPS.len() as u64) {
        for to in STEPS {
            step(&clock, to * HOUR).await;
            let stepped = Instant::now();
            scene.wait_for_progress(i64::from(PER_SECOND) / 10).await;
            let after = stepped.elapsed();
            given::resumed(after);
            assert!(after <= SOON, "stepped to {to} h, passed after {after:?}");
            wait_until_all_work(&apps, 50).await;
            steps += 1;
        }
    }
    let mut inputs = load.stop().await;
    scene.wait_until_passed(&inputs).await;

    // With nothing to do nothing else wakes anybody.
    let lines = apps.map(|app| app.line_count());
    step(&clock, -HOUR).await;
    for (app, first) in apps.iter().zip(lines) {
        let noticed = app.wait_for_line_after(first, LIMIT, |line| line.contains(SET_BACK));
        noticed.await.unwrap();
    }
    steps += 1;
    let load = scene.load(PER_SECOND);
    let began = Instant::now();
    scene.wait_for_progress(1).await;
    let after = began.elapsed();
    assert!(after <= SOON, "passed after {after:?}");
    wait_until_all_work(&apps, 50).await;
    let gone = wait::until("the old clients' threads have ended", LIMIT, async || {
        let mut pairs = apps.iter().zip(threads);
        pairs.all(|(app, before)| self::threads(app) <= before + FEW_THREADS)
    });
    gone.await.unwrap();
    inputs.extend(load.stop().await);
    given::bitten(steps, "the wall clock stepped");
    scene.finish(&inputs, &apps).await;
    rows::wait_until_each_failure_has_one(&ledger, &inputs).await;
    // A worker that is started anew may not hear of its last commit.
    let (one, other) = (failures_passed(&one).await, failures_passed(&other).await);
    let told = rows::failed_and_passed(&mut rows::open(&ledger).await).await;
    assert_eq!(told, one + other);
}

/// How many a process says, in the end, that it has passed.
async fn failures_passed(app: &Process) -> usize {
    let drained = |line: &str| line.contains(r#""message":"drained""#);
    let line = app.wait_for_line(LIMIT, drained).await.unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    usize::try_from(line["labels.failed"].as_u64().unwrap()).unwrap()
}

fn threads(app: &Process) -> u64 {
    usage::of_tree(app.pid()).unwrap().threads
}

/// Steps the clock, and waits until programs have looked at it.
pub(crate) async fn step(clock: &WallClock, to: i64) {
    let before = clock.times_read().unwrap();
    clock.step_to(to).unwrap();
    let looked = wait::until("programs look at the clock", LIMIT, async || {
        clock.times_read().unwrap() > before + 10
    });
    looked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_the_clock_in_cooperative_sticky() {
    records_go_on(Scene::new(shared(), 1, PARTITIONS).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_the_clock_in_kip_848() {
    let scene = Scene::new(shared(), 1, PARTITIONS).await;
    records_go_on(scene.in_consumer_protocol()).await;
}
