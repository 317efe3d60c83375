//! Two pipelines in one process. What happens to one is nothing to the other.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use orchestrator_runtime::RunError;
use orchestrator_runtime::core::{Context, DedupKey, Output, Record, TransformError, transform_fn};
use orchestrator_testkit::orders::expected_output;
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::Position;

use super::exact::{Fate, Input};
use super::inside::Inside;
use super::scene::{LIMIT, Scene, shared};

const PARTITIONS: i32 = 4;

/// How often work of the first of a chain has to be lost by dropping it.
const LOSSES: usize = 3;

fn enrich(record: &Record, _: &Context<'_>) -> Result<Output, TransformError> {
    let output = expected_output(record.value().unwrap_or_default());
    let output = output.ok_or_else(|| TransformError::permanent("no such order"))?;
    Ok(Output::new(output))
}

/// Counts the records that were transformed before.
#[derive(Default)]
struct Repeated {
    seen: Mutex<HashSet<DedupKey>>,
    count: AtomicUsize,
}

impl Repeated {
    fn note(&self, cx: &Context<'_>) {
        let first = self.seen.lock().unwrap().insert(cx.dedup_key());
        self.count.fetch_add(usize::from(!first), Ordering::SeqCst);
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

fn shout(record: &Record, _: &Context<'_>) -> Result<Output, TransformError> {
    Ok(Output::new(
        [record.value().unwrap_or_default(), b"!"].concat(),
    ))
}

/// The outputs of a pipeline as the inputs of the next.
async fn inputs_of_next(first: &Scene) -> Vec<Input> {
    let (outputs, _) = first.visible().await;
    let inputs = outputs.into_iter().map(|output| Input {
        topic: output.topic.to_string(),
        at: Position {
            partition: output.partition,
            offset: output.offset,
        },
        fate: Fate::Output([output.value.as_deref().unwrap(), b"!"].concat()),
        key: output.key,
        value: output.value,
    });
    inputs.collect()
}

/// Each reads what the other writes, offsets of aborted transactions and all.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_exact_though_its_first_is_dropped_in_the_middle() {
    let first = Scene::new(shared(), 1, PARTITIONS).await.writing_at_once();
    let second = Scene::reading(shared(), vec![first.target.clone()], PARTITIONS).await;
    let last = Inside::start(second.config(&[]), transform_fn(shout));
    let load = first.load(1_000);
    let repeated = Arc::new(Repeated::default());
    let start = || {
        let repeated = repeated.clone();
        let transformer = move |record: &Record, cx: &Context<'_>| {
            repeated.note(cx);
            enrich(record, cx)
        };
        let config = first.config(&[("ORCH_INSTANCE_ID", "solo")]);
        Inside::start(config, transform_fn(transformer))
    };
    let mut running = start();
    for _ in 0..LOSSES {
        let before = repeated.count();
        // What it drops may just have been committed: then it loses nothing, and is dropped again.
        let loses = wait::until("dropping it loses work", LIMIT, async || {
            first.wait_for_progress(100).await;
            wait::until("a transaction is open", LIMIT, async || {
                first.has_open_transaction().await
            })
            .await
            .unwrap();
            std::mem::replace(&mut running, start()).drop_it().await;
            first.wait_for_progress(100).await;
            repeated.count() > before
        });
        loses.await.unwrap();
    }
    let inputs = load.stop().await;
    first.wait_until_passed(&inputs).await;
    running.drain().await;
    first.judge(&inputs).await.unwrap();

    let inputs = inputs_of_next(&first).await;
    second.wait_until_passed(&inputs).await;
    last.drain().await;
    second.judge(&inputs).await.unwrap();
}

/// Both read the same topic in groups of their own.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_and_then_stops_on_poison_does_not_touch_the_other() {
    let sick = Scene::new(shared(), 1, PARTITIONS).await;
    let sound = Scene::reading(shared(), sick.sources.clone(), PARTITIONS).await;
    let load = sick.load(1_000);
    let hanging = Arc::new(AtomicBool::new(true));
    let (hangs, seen) = (hanging.clone(), Arc::new(AtomicBool::new(false)));
    let see = seen.clone();
    let hang = move |record: &Record, _: &Context<'_>| {
        see.store(true, Ordering::SeqCst);
        while hangs.load(Ordering::SeqCst) {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        Err::<Output, _>(TransformError::permanent(format!("{record:?}")))
    };
    let stop = sick.config(&[("ORCH_ATOMIC_ON_POISON", "STOP")]);
    let one = Inside::start(stop, transform_fn(hang));
    wait::until("the first hangs", LIMIT, async || {
        seen.load(Ordering::SeqCst)
    })
    .await
    .unwrap();

    let other = Inside::start(sound.config(&[]), transform_fn(enrich));
    sound.wait_for_progress(1_000).await;
    hanging.store(false, Ordering::SeqCst);
    let ended = one.ended().await;
    assert!(
        matches!(ended, Err(RunError::StoppedOnPoison { .. })),
        "{ended:?}"
    );
    sound.wait_for_progress(1_000).await;
    let inputs = load.stop().await;
    sound.wait_until_passed(&inputs).await;
    other.drain().await;
    sound.judge(&inputs).await.unwrap();
    let nothing = sick.visible().await;
    assert!(
        nothing.0.is_empty() && nothing.1.is_empty(),
        "{} outputs",
        nothing.0.len()
    );
}
