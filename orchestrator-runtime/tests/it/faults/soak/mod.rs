//! A group at work for as long as it is told to, while everything happens to it and around it, one after the other, as the
//! seed has it. An auditor that shares nothing with the runtime follows it all the way. One member lives through all of it:
//! what it takes of the machine must not grow. `cargo xtask chaos --what soak` gives the seed and the minutes.

mod audit;
mod coordinators;
mod outside;
mod steady;
mod unruly;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
use orchestrator_testkit::proxy::Proxy;
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;
use orchestrator_testkit::wall_clock::WallClock;
use tempfile::tempdir;

use super::given;
use super::scene::{LIMIT, Scene, drain, impatient};
use super::storm::Storm;
use audit::Following;
use outside::{Outside, World};
use steady::Steady;
use unruly::Unruly;

use crate::ledger::bed::FEATURES;

const PARTITIONS: i32 = 8;
/// As many as there are in the end, if there is time to notice.
const MORE_PARTITIONS: i32 = 10;
/// What notices new partitions may take: clients ask for metadata every five minutes.
const NOTICED_AFTER: Duration = Duration::from_secs(12 * 60);
const PER_SECOND: u32 = 1_600;
/// For what is judged by its memory: the most that it has to do at once comes first, more than any event leaves behind.
const BACKLOG: Duration = Duration::from_secs(60);
/// Without a time that is given: so many events.
const FEW: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_soak_with_everything_that_can_happen() {
    let seed = given::seed();
    let broker = impatient().local().quick_restart();
    let broker = broker
        .log_level(coordinators::LOGGER, "info")
        .log_level(super::broker::FORGETFUL, "info");
    let (kafka, proxy) = Proxy::start(broker).unwrap();
    let options = PostgresOptions::new().own().setting("fsync", "off");
    let database = Postgres::start(options).unwrap();
    let url = database.create_database("soak").unwrap();
    let spill = tempdir().unwrap();
    let clock = Arc::new(WallClock::new().unwrap());
    let scene = scene(&kafka, &proxy, &url, spill.path().to_str().unwrap()).await;
    let scene = scene.going_by(&clock);
    // Every other seed in the other protocol.
    let scene = match seed % 2 {
        0 => scene,
        _ => scene.in_consumer_protocol(),
    };
    let mut world = World {
        kafka,
        proxy,
        database,
        clock,
        url,
        bitten: BTreeMap::new(),
    };
    let mut storm = Storm::new(scene, seed);
    let mut unruly = Unruly::default();
    let audit = Following::start(&storm.scene, &world.url);
    storm.join();
    storm.spare_the_first();
    // Not before there is a program: it may have to be built.
    let load = storm.scene.load(PER_SECOND);
    storm.wait_until_all_work(20).await;
    if given::time().is_some_and(|time| time >= steady::JUDGED_FROM) {
        // While it is alone: later it may be so again, with as much to do.
        storm.all_sleep(BACKLOG).await;
    }
    storm.join();
    storm.wait_until_all_work(20).await;
    let mut steady = Steady::watch(storm.spared().pid());

    let (began, time) = (Instant::now(), given::time());
    let mut grown = false;
    for nth in 0.. {
        let over = match time {
            Some(time) => began.elapsed() >= time,
            None => nth >= given::times(FEW),
        };
        if over {
            break;
        }
        let happened = Instant::now();
        // First each of what happens outside, so that nothing is left out.
        let outside = match Outside::ALL.get(nth as usize) {
            Some(event) => Some(*event),
            None => Outside::any(&mut storm.random),
        };
        let what = match outside {
            Some(event) => {
                world.happens(event, &mut storm, &mut unruly).await;
                format!("{event:?}")
            }
            None => {
                let event = storm.any_event();
                storm.happens(event).await;
                format!("{event:?}")
            }
        };
        println!("{what} was over after {:?}", happened.elapsed());
        audit.assert_clean();
        steady.look();
        let half = time.is_some_and(|time| time > NOTICED_AFTER * 2 && began.elapsed() > time / 2);
        if half && !grown {
            grow(&storm.scene).await;
            grown = true;
        }
    }
    storm.tell();
    unruly.tell();
    world.tell();
    finish(storm, load, unruly, audit, grown).await;
    steady.judge();
}

/// Adds partitions to the source, and waits until there is something in each: a member may have no others.
async fn grow(scene: &Scene) {
    let source = &scene.sources[0];
    let growing = scene.admin.grow_topic(source, MORE_PARTITIONS);
    growing.await.unwrap();
    let used = wait::until("all partitions are written to", LIMIT, async || {
        let ends = scene.admin.end_offsets(source, Isolation::Committed).await;
        ends.is_ok_and(|ends| {
            ends.len() == MORE_PARTITIONS as usize && ends.values().all(|end| *end > 0)
        })
    });
    used.await.unwrap();
}

async fn scene(kafka: &Kafka, proxy: &Proxy, url: &str, spill: &str) -> Scene {
    Scene::new(kafka, 1, PARTITIONS)
        .await
        .built_with(&FEATURES)
        .with("ORCH_BOOTSTRAP_SERVERS", proxy.bootstrap_servers())
        .with("ORCH_FAILURE_MODE", "SKIP_AND_LOG")
        .with("ORCH_DB_STRATEGY", "LIGHTWEIGHT")
        .with("ORCH_DB_URL", url)
        // For what never has an answer, and less than a broker is silent.
        .with("ORCH_KAFKA_SOCKET_TIMEOUT_MS", "1000")
        // Less than the unruly ones hang.
        .with("ORCH_TRANSFORM_TIMEOUT_MS", "300")
        .with("ORCH_DB_TIMEOUT_MS", "1000")
        .with("ORCH_DB_BATCH_BUDGET_MS", "1000")
        .with("ORCH_DB_CIRCUIT_FAILURE_THRESHOLD", "2")
        .with("ORCH_DB_CIRCUIT_OPEN_MS", "2000")
        .with("ORCH_SPILL_DIR", spill)
}

/// Waits until all is passed, drains everybody, and compares what there is with what there has to be.
async fn finish(
    storm: Storm,
    load: super::load::Load,
    unruly: Unruly,
    audit: Following,
    grown: bool,
) {
    let scene = &storm.scene;
    // Its last orders are in the source then.
    let (written, poison) = load.stop_and_count().await;
    scene.wait_until_caught_up().await;
    if grown {
        let committed = scene.admin.committed(&scene.group, &scene.sources[0]);
        let committed = committed.await.unwrap();
        let taken = committed.values().filter(|passed| **passed > 0).count();
        assert_eq!(taken, MORE_PARTITIONS as usize, "void: {committed:?}");
        given::bitten(1, "partitions were added");
    }
    let failed = poison + unruly.dead();
    let told = wait::until("each failure has its row", LIMIT, async || {
        audit.rows().await == failed
    });
    if let Err(error) = told.await {
        panic!("{error}: {} of {failed}", audit.rows().await);
    }
    for process in storm.processes() {
        drain(process).await;
    }
    let counts = audit.end().await;
    let all = written + unruly.all();
    assert_eq!(
        (counts.records, counts.failed, counts.waiting),
        (all, failed, 0)
    );
    given::measured(&format!("{counts}"));
}
