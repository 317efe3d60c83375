//! Records that wait for something: their partitions wait with them, all others are done meanwhile. The transformers
//! wait for the test, so that "meanwhile" is certain.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};

use orchestrator_runtime::core::{
    Context, Output, Record, TransformError, transform_async_fn, transform_fn,
};
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::WriteRecord;

use super::super::exact::{Fate, Input, next_offsets};
use super::super::given;
use super::super::inside::Inside;
use super::super::scene::{LIMIT, Scene, shared};

const PARTITIONS: i32 = 6;
/// More partitions wait than there are cores here; the rest flows.
const WAITING: i32 = 4;
const RECORDS: i64 = 200;
const WAITS_AT: i64 = 50;

/// Opens once, for all who wait.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn is_open(&self) -> bool {
        *self.open.lock().unwrap()
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }
}

fn waits(record: &Record) -> bool {
    record.partition().partition < WAITING && record.offset() == WAITS_AT
}

fn output(record: &Record) -> Output {
    Output::new([record.value().unwrap(), b"!"].concat())
}

async fn scene(mode: &str) -> (Scene, Vec<Input>) {
    let scene = Scene::new(shared(), 1, PARTITIONS)
        .await
        .with("ORCH_FAILURE_MODE", mode)
        .with("ORCH_RETRY_BACKOFF_MS", "20")
        .with("ORCH_RETRY_BACKOFF_MAX_MS", "100")
        .with("ORCH_MAX_ATTEMPTS", "10000");
    let mut records = Vec::new();
    for partition in 0..PARTITIONS {
        for n in 0..RECORDS {
            let value = format!("{partition}-{n}");
            let fate = Fate::Output(format!("{value}!").into());
            let record = WriteRecord::new(value).key(n.to_string());
            records.push((record.partition(partition), fate));
        }
    }
    let inputs = scene.write(0, records).await;
    (scene, inputs)
}

/// Where the group stands while some wait.
fn meanwhile() -> BTreeMap<i32, i64> {
    let stands = |partition| {
        if partition < WAITING {
            WAITS_AT
        } else {
            RECORDS
        }
    };
    (0..PARTITIONS).map(|p| (p, stands(p))).collect()
}

fn waiting() -> BTreeMap<i32, i64> {
    (0..WAITING).map(|p| (p, WAITS_AT)).collect()
}

/// Waits until all that can pass has passed, and sees that nothing else has.
async fn others_are_done(scene: &Scene) {
    let (admin, source) = (&scene.admin, &scene.sources[0]);
    let meanwhile = meanwhile();
    let passed = admin.wait_for_committed(&scene.group, source, &meanwhile, LIMIT);
    assert_eq!(passed.await.unwrap(), meanwhile);
}

async fn all_are_done(scene: &Scene, inputs: &[Input], inside: Inside) {
    assert_eq!(
        next_offsets(inputs)[&scene.sources[0]].len(),
        PARTITIONS as usize
    );
    scene.wait_until_passed(inputs).await;
    let drained = inside.drain().await;
    scene.judge(inputs).await.unwrap();
    let all = (i64::from(PARTITIONS) * RECORDS) as u64;
    assert_eq!((drained.counts.ok, drained.counts.failed), (all, 0));
    given::bitten(
        u64::from(WAITING.unsigned_abs()),
        "records: that wait, or hang",
    );
}

async fn infrastructure_that_is_down(mode: &str) {
    let (scene, inputs) = scene(mode).await;
    let gate = Arc::new(Gate::default());
    let shut = gate.clone();
    let transformer = transform_fn(move |record: &Record, _: &Context<'_>| {
        if waits(record) && !shut.is_open() {
            return Err(TransformError::infrastructure("the gate is shut"));
        }
        Ok(output(record))
    });
    let inside = Inside::start(scene.config(&[("ORCH_MAX_ATTEMPTS", "1")]), transformer);
    others_are_done(&scene).await;
    inside.wait_until_held(&waiting(), "infrastructure").await;
    gate.open();
    all_are_done(&scene, &inputs, inside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn infrastructure_that_is_down_uses_no_attempt_in_atomic() {
    infrastructure_that_is_down("ATOMIC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn infrastructure_that_is_down_uses_no_attempt_in_skip_and_log() {
    infrastructure_that_is_down("SKIP_AND_LOG").await;
}

async fn a_future_that_never_ends(mode: &str) {
    let (scene, inputs) = scene(mode).await;
    let gate = Arc::new(Gate::default());
    let shut = gate.clone();
    let transformer = transform_async_fn(move |record: Record, _| {
        let shut = shut.clone();
        async move {
            if waits(&record) && !shut.is_open() {
                std::future::pending::<()>().await;
            }
            Ok(output(&record))
        }
    });
    let inside = Inside::start(
        scene.config(&[("ORCH_TRANSFORM_TIMEOUT_MS", "200")]),
        transformer,
    );
    others_are_done(&scene).await;
    // Each attempt ends by its deadline, and that is a transient failure.
    inside.wait_until_held(&waiting(), "retry_backoff").await;
    gate.open();
    all_are_done(&scene, &inputs, inside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_future_that_never_ends_is_given_up_at_its_deadline_in_atomic() {
    a_future_that_never_ends("ATOMIC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_future_that_never_ends_is_given_up_at_its_deadline_in_skip_and_log() {
    a_future_that_never_ends("SKIP_AND_LOG").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_hang_are_detected_and_stop_only_their_partitions() {
    let (scene, inputs) = scene("ATOMIC").await;
    let gate = Arc::new(Gate::default());
    let shut = gate.clone();
    let transformer = transform_fn(move |record: &Record, _: &Context<'_>| {
        if waits(record) {
            shut.wait();
        }
        Ok(output(record))
    });
    let inside = Inside::start(
        scene.config(&[("ORCH_TRANSFORM_TIMEOUT_MS", "200")]),
        transformer,
    );
    // The hanging ones cannot be cancelled and keep what was taken with them; the other partitions are done.
    let others: BTreeMap<_, _> = (WAITING..PARTITIONS).map(|p| (p, RECORDS)).collect();
    let (admin, source) = (&scene.admin, &scene.sources[0]);
    let passed = admin.wait_for_committed(&scene.group, source, &others, LIMIT);
    let passed = passed.await.unwrap();
    assert!(
        (0..WAITING).all(|p| passed.get(&p).is_none_or(|next| *next <= WAITS_AT)),
        "{passed:?}"
    );
    let wanted = WAITING as usize;
    wait::until("all of them are seen to hang", LIMIT, async || {
        inside.hung() == wanted
    })
    .await
    .unwrap();
    gate.open();
    all_are_done(&scene, &inputs, inside).await;
}
