//! The worker over the model broker without faults of its own: one thing goes wrong, and nobody else may suffer by it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestrator_runtime::core::quarantine::Quarantine;
use orchestrator_runtime::core::{
    AtomicOnPoison, Attempt, Output, Policy, Record, SourcePartition, TransformError, Transformer,
    transform_async_fn,
};
use orchestrator_runtime::worker::settings::WorkerSettings;
use orchestrator_runtime::worker::{End, WorkerReport};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::ports::{Shared, lock};
use super::producer::REFUSED;
use super::{employ, in_virtual_time, settings};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn partition(n: i32) -> SourcePartition {
    SourcePartition::new("in", n)
}

pub(super) fn calm(partitions: i32, records: usize) -> Shared {
    let mut broker = Broker::new(1, partitions, records);
    broker.faults_left = 0;
    Arc::new(Mutex::new(broker))
}

pub(super) fn calm_settings(broker: &Shared, policy: Policy) -> WorkerSettings {
    let settings = settings(0, &lock(broker), AtomicOnPoison::Dlq);
    WorkerSettings {
        policy: Policy {
            backoff: settings.policy.backoff,
            dead_letters: true,
            ..policy
        },
        ..settings
    }
}

/// Runs a worker for so long in virtual time, or until it ends.
fn run_for<T: Transformer>(
    time: Duration,
    broker: &Shared,
    settings: WorkerSettings,
    drain: CancellationToken,
    transformer: T,
) -> Option<WorkerReport> {
    in_virtual_time(async {
        let worker = employ(broker, settings, drain.clone(), transformer);
        tokio::time::timeout(time, worker.run(drain)).await.ok()
    })
}

/// Runs a worker that ends by itself, within a minute or within an hour.
#[track_caller]
fn ends_within<T: Transformer>(
    time: Duration,
    broker: &Shared,
    settings: WorkerSettings,
    transformer: T,
) -> WorkerReport {
    let report = run_for(
        time,
        broker,
        settings,
        CancellationToken::new(),
        transformer,
    );
    report.expect("it goes on for ever")
}

/// Runs a worker that never ends, because these partitions are held; all others are passed.
#[track_caller]
fn holds_only<T: Transformer>(
    held: &[i32],
    broker: &Shared,
    settings: WorkerSettings,
    transformer: T,
) {
    let drain = CancellationToken::new();
    assert_eq!(run_for(HOUR, broker, settings, drain, transformer), None);
    assert!(all_but(broker, held), "{:?}", lock(broker).committed);
}

fn all_but(broker: &Shared, held: &[i32]) -> bool {
    let broker = lock(broker);
    broker.check().unwrap();
    let flowing = broker
        .source
        .keys()
        .filter(|p| !held.contains(&p.partition));
    flowing
        .clone()
        .all(|p| broker.committed[p] >= broker.end(p))
}

#[test]
fn a_partition_whose_transform_hangs_leaves_room_for_the_others() {
    one_hangs(None);
}

/// What may not be given to the transformer yet takes room, too.
#[test]
fn a_partition_whose_transform_hangs_before_anything_was_passed_leaves_room_for_the_others() {
    one_hangs(Some(Quarantine {
        after: 3,
        owner: 1,
        life: 1,
    }));
}

fn one_hangs(quarantine: Option<Quarantine>) {
    let broker = calm(3, 2_000);
    let mut settings = calm_settings(&broker, Policy::atomic());
    settings.quarantine = quarantine;
    settings.max_bytes = 4000;
    settings.held_max_bytes = 8000;
    settings.stage.timeout = Duration::from_secs(36_000);
    let firsts: Vec<_> = lock(&broker).source.values().map(|o| o[0]).collect();
    let transformer = transform_async_fn(move |record: Record, _: Attempt| {
        let number = record.partition().partition;
        let hangs = number < 2 && record.offset() == firsts[number as usize];
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok(Output::new("v"))
        }
    });
    holds_only(&[0, 1], &broker, settings, transformer);
}

#[test]
fn held_records_larger_than_what_may_be_kept_do_not_stop_the_others() {
    let broker = calm(3, 400);
    let mut settings = calm_settings(&broker, Policy::atomic());
    // One such record is more than that.
    settings.held_max_bytes = 100;
    let transformer = transform_async_fn(|record: Record, _: Attempt| async move {
        match record.partition().partition {
            0 | 1 => Err(TransformError::permanent("poison")),
            _ => Ok(Output::new("v")),
        }
    });
    holds_only(&[0, 1], &broker, settings, transformer);
}

#[test]
fn the_skip_brake_is_released_though_the_first_record_goes_on_failing() {
    let broker = calm(1, 200);
    let mut settings = calm_settings(&broker, Policy::skip_and_log());
    settings.held_max_bytes = 1 << 20;
    let bad = lock(&broker).source[&partition(0)][0];
    let start = Arc::new(Mutex::new(None));
    let transformer = transform_async_fn(move |record: Record, _: Attempt| {
        let outage = {
            let now = Instant::now();
            let began = *start.lock().unwrap().get_or_insert(now);
            now - began < Duration::from_secs(60)
        };
        async move {
            if outage || record.offset() == bad {
                return Err(TransformError::transient("no"));
            }
            Ok(Output::new("v"))
        }
    });
    let report = ends_within(HOUR, &broker, settings, transformer);
    assert_eq!((report.end, report.counts.failed), (End::Drained, 1));
    assert!(all_but(&broker, &[]));
}

#[test]
fn a_stop_whose_drain_takes_too_long_is_a_stop() {
    let broker = calm(2, 40);
    let mut settings = calm_settings(&broker, Policy::atomic());
    settings.policy.on_poison = AtomicOnPoison::Stop;
    settings.drain_timeout = Duration::from_secs(5);
    settings.stage.timeout = Duration::from_secs(36_000);
    let transformer = transform_async_fn(|record: Record, _: Attempt| async move {
        if record.partition().partition == 0 {
            std::future::pending::<()>().await;
        }
        Err::<Output, _>(TransformError::permanent("poison"))
    });
    let report = ends_within(MINUTE, &broker, settings, transformer);
    assert!(matches!(report.end, End::StoppedOnPoison(_)));
}

#[test]
fn a_drain_ends_in_time_whoever_does_not_answer() {
    let broker = calm(3, 4000);
    let mut settings = calm_settings(&broker, Policy::skip_and_log());
    settings.drain_timeout = Duration::from_secs(5);
    let drain = CancellationToken::new();
    let (asked, silent) = (drain.clone(), broker.clone());
    let transformer = transform_async_fn(move |_: Record, _: Attempt| {
        lock(&silent).silent = true;
        asked.cancel();
        std::future::ready(Err::<Output, _>(TransformError::permanent("poison")))
    });
    let report = run_for(MINUTE, &broker, settings, drain, transformer);
    assert_eq!(report.expect("the drain hangs").end, End::DrainTimedOut);
}

#[test]
fn a_record_that_is_refused_each_time_waits_longer_each_time() {
    let broker = calm(2, 400);
    let mut settings = calm_settings(&broker, Policy::atomic());
    settings.policy.backoff.max = Duration::from_secs(60);
    let bad = lock(&broker).source[&partition(0)][0];
    let tries = Arc::new(Mutex::new(0));
    let count = tries.clone();
    let transformer = transform_async_fn(move |record: Record, _: Attempt| {
        let is_bad = record.position() == partition(0).at(bad);
        *count.lock().unwrap() += u32::from(is_bad);
        std::future::ready(Ok(Output::new(if is_bad { REFUSED } else { "v" })))
    });
    holds_only(&[0], &broker, settings, transformer);
    let tries = *tries.lock().unwrap();
    assert!((60..200).contains(&tries), "{tries}");
}

#[test]
fn a_partition_whose_offsets_are_refused_rests_once_for_each_unit() {
    let broker = calm(1, 400);
    lock(&broker).refuses_offsets = 2;
    let settings = calm_settings(&broker, Policy::atomic());
    let transformer = transform_async_fn(|_: Record, _: Attempt| {
        std::future::ready(Ok::<_, TransformError>(Output::new("v")))
    });
    let drain = CancellationToken::new();
    // A second, and two more.
    run_for(
        Duration::from_secs(4),
        &broker,
        settings,
        drain,
        transformer,
    );
    let broker = lock(&broker);
    assert!(
        broker.slices_refused.iter().all(|slices| *slices > 1),
        "{:?}",
        broker.slices_refused
    );
    assert_eq!(broker.refuses_offsets, 0);
    assert!(broker.all_passed(), "{:?}", broker.committed);
}

/// A panic whose payload panics in its turn.
struct Evil;

impl Drop for Evil {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("evil");
        }
    }
}

#[test]
fn a_transform_that_breaks_down_passes_nothing() {
    let broker = calm(2, 40);
    let settings = calm_settings(&broker, Policy::atomic());
    let evil = Arc::new(Mutex::new(3));
    let transformer = transform_async_fn(move |record: Record, _: Attempt| {
        let breaks = record.partition().partition == 0 && {
            let mut left = evil.lock().unwrap();
            *left -= i32::from(*left > 0);
            *left > 0
        };
        async move {
            if breaks {
                std::panic::panic_any(Evil);
            }
            Ok(Output::new("v"))
        }
    });
    let report = ends_within(HOUR, &broker, settings, transformer);
    assert_eq!(report.end, End::Drained);
    assert!(all_but(&broker, &[]));
}
