//! The worker and the transactor against the model broker: seeded, in virtual time. The same seed gives the same run,
//! so that a failing one can be looked at again.

mod broker;
mod ports;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::Broker;
use orchestrator_runtime::core::ports::{Epoch, SliceFate, Unit, UnitSlice};
use orchestrator_runtime::core::{
    AtomicOnPoison, Backoff, BoxFuture, FailureRecord, FailureTracker, Output, Passed, Policy,
    Record, SourcePartition, TrackerError, TransformError, transform_async_fn,
};
use orchestrator_runtime::kafka::membership::Membership;
use orchestrator_runtime::kafka::transactor::Transactor;
use orchestrator_runtime::worker::settings::WorkerSettings;
use orchestrator_runtime::worker::stage::StageSettings;
use orchestrator_runtime::worker::{End, Worker};
use ports::{ModelCommitter, ModelProducer, ModelSession, lock};
use tokio_util::sync::CancellationToken;

struct NoLedger;

impl FailureTracker for NoLedger {
    fn failed<'a>(&'a self, _: &'a [FailureRecord]) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn committed<'a>(&'a self, _: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// One in five records fails at first, one in twenty for good (where a dead letter is its output).
fn transform(record: &Record, attempt: u32, seed: u64) -> Result<Output, TransformError> {
    let number = fastrand::Rng::with_seed(
        seed ^ (record.offset() as u64) << 8 ^ record.partition().partition as u64,
    )
    .u32(0..100);
    match number {
        0..=4 => Err(TransformError::permanent("poison")),
        5..=19 if attempt == 1 => Err(TransformError::transient("once")),
        20..=22 if attempt <= 2 => Err(TransformError::transient("twice")),
        _ => Ok(Output::new("v")),
    }
}

fn settings(seed: u64) -> WorkerSettings {
    let mut policy = if seed.is_multiple_of(2) {
        Policy::atomic()
    } else {
        Policy::skip_and_log()
    };
    policy.on_poison = AtomicOnPoison::Dlq;
    policy.dead_letters = true;
    policy.max_attempts = NonZeroU32::MIN.saturating_add(2);
    policy.backoff = Backoff {
        base: Duration::from_millis(20),
        max: Duration::from_millis(200),
    };
    WorkerSettings {
        policy,
        consumer_group: "group".to_owned(),
        target_topic: Some("out".into()),
        dlq_topic: Some("{topic}.dlq".to_owned()),
        stage: StageSettings {
            concurrency: 4,
            timeout: Duration::from_secs(5),
            dead_letter_records: Arc::new(BTreeSet::new()),
        },
        commit_interval: Duration::from_millis(5),
        max_records: 16,
        max_bytes: 1 << 20,
        max_outputs_per_record: 10,
        output_dedup_header: false,
        held_max_bytes: 4000,
        drain_timeout: Duration::from_secs(600),
        seed,
    }
}

/// One run; gives its log, or what was wrong.
fn run(seed: u64) -> Result<Vec<String>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let broker = Arc::new(Mutex::new(Broker::new(seed, 3, 40)));
    let group = Arc::new(Membership::default());
    let mailbox = ports::Mailbox::default();
    let done = CancellationToken::new();
    let report = runtime.block_on(async {
        let session =
            ModelSession::new(broker.clone(), group.clone(), mailbox.clone(), done.clone());
        let producer = ModelProducer {
            broker: broker.clone(),
            group: group.clone(),
            mailbox,
            epoch: 0,
            refused_later: Vec::new(),
            disconnected: false,
            clock: tokio::time::Instant::now().into_std(),
        };
        let committer = ModelCommitter {
            transactor: Transactor::new(producer, group, ()),
            broker: broker.clone(),
            report: None,
        };
        let transformer = transform_async_fn(move |record: Record, attempt| {
            std::future::ready(transform(&record, attempt.number, seed))
        });
        let worker = Worker::new(
            session,
            committer,
            Arc::new(transformer),
            Arc::new(NoLedger),
            settings(seed),
            (),
        );
        tokio::time::timeout(Duration::from_secs(3600), worker.run(done)).await
    });
    let broker = lock(&broker);
    let log = broker.log.join("\n");
    let Ok(report) = report else {
        return Err(format!(
            "no end within an hour: {:?}\n{log}",
            broker.committed
        ));
    };
    if report.end != End::Drained {
        return Err(format!("ended by {:?}\n{log}", report.end));
    }
    broker.check().map_err(|error| format!("{error}\n{log}"))?;
    if !broker.all_passed() {
        return Err(format!(
            "not everything was passed: {:?}\n{log}",
            broker.committed
        ));
    }
    Ok(broker.log.clone())
}

#[test]
fn no_schedule_loses_doubles_or_reorders() {
    let seeds: u64 = std::env::var("MODEL_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3000);
    for seed in 0..seeds {
        if let Err(error) = run(seed) {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

const STRIPPED: [SliceFate; 2] = [SliceFate::Stripped, SliceFate::Stripped];

/// What becomes of a slice that does not begin where its partition stands, and of one of an old epoch.
fn fates_of_a_hole() -> Vec<SliceFate> {
    let broker = Arc::new(Mutex::new(Broker::new(0, 2, 10)));
    lock(&broker).faults_left = 0;
    let group = Arc::new(Membership::default());
    group.refresh(Some(1));
    let slices = [(0, 0, 5), (1, 1, 0)].map(|(n, old, from)| {
        let partition = SourcePartition::new("in", n);
        let epoch = group.next_epoch();
        group.own(partition.clone(), epoch, 0);
        let epoch = Epoch(epoch.0 - old);
        UnitSlice {
            partition,
            epoch,
            from,
            next: 7,
            done: Vec::new(),
        }
    });
    let producer = ModelProducer {
        broker,
        group: group.clone(),
        mailbox: ports::Mailbox::default(),
        epoch: 0,
        refused_later: Vec::new(),
        disconnected: false,
        clock: std::time::Instant::now(),
    };
    let unit = Unit {
        slices: slices.into(),
    };
    Transactor::new(producer, group, ()).commit(&unit).0
}

#[test]
fn the_gate_strips_what_does_not_follow() {
    assert_eq!(fates_of_a_hole(), STRIPPED);
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use orchestrator_runtime::planted::{Bug, plant};

    use super::run;

    /// Whether some schedule out of many shows the bug.
    fn is_caught(bug: Bug) -> bool {
        plant(Some(bug));
        let shows = |seed| std::panic::catch_unwind(|| run(seed)).map_or(true, |run| run.is_err());
        let caught = (0..2000).any(shows);
        plant(None);
        caught
    }

    #[test]
    fn every_planted_bug_is_caught() {
        let missed: Vec<_> = [
            Bug::NoSendOffsets,
            Bug::LastInsteadOfNext,
            Bug::SendErrorIgnored,
            Bug::CommitAfterFailedSendOffsets,
            Bug::ProducerKept,
            Bug::RewindFromMemory,
        ]
        .into_iter()
        .filter(|bug| !is_caught(*bug))
        .collect();
        assert!(missed.is_empty(), "not caught: {missed:?}");
    }

    /// The worker never hands over a hole, so no schedule shows this one: the gate is asked directly.
    #[test]
    fn a_gate_that_lets_holes_pass_is_caught() {
        plant(Some(Bug::GateLetsHolesPass));
        let fates = super::fates_of_a_hole();
        plant(None);
        assert_ne!(fates, super::STRIPPED);
    }
}
