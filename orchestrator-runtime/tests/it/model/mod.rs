//! The worker and the transactor against the model broker: seeded, in virtual time. The same seed gives the same run,
//! so that a failing one can be looked at again.

mod broker;
mod crashing;
mod nature;
mod ports;
mod producer;
mod session;
mod worker;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::Broker;
use nature::{Nature, nature, transform};
use orchestrator_runtime::core::dead_letter::DlqTopic;
use orchestrator_runtime::core::ports::{Epoch, SessionFailure, SliceFate, Unit, UnitSlice};
use orchestrator_runtime::core::quarantine::Quarantine;
use orchestrator_runtime::core::{
    AtomicOnPoison, Backoff, BoxFuture, FailureRecord, FailureTracker, Passed, Policy, Record,
    SourcePartition, Taken, TrackerError, Transformer, transform_async_fn,
};
use orchestrator_runtime::kafka::transactor::Transactor;
use orchestrator_runtime::worker::settings::{WorkerObserver, WorkerSettings};
use orchestrator_runtime::worker::stage::StageSettings;
use orchestrator_runtime::worker::{End, Worker};
use ports::{Group, Mailbox, ModelCommitter, Shared, lock};
use producer::ModelProducer;
use session::ModelSession;
use tokio_util::sync::CancellationToken;

/// A ledger that is away at times, and then nothing may pass unrecorded, nor be transformed before it is noted.
struct Ledger {
    broker: Shared,
    notes: bool,
}

impl FailureTracker for Ledger {
    fn notes_received(&self) -> bool {
        self.notes
    }

    fn received<'a>(&'a self, taken: &'a [Taken]) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async move {
            let takes = lock(&self.broker).random.u64(0..20);
            tokio::time::sleep(Duration::from_millis(takes)).await;
            let mut broker = lock(&self.broker);
            if broker.strikes(10, "the ledger does not note records") {
                return Err(TrackerError {
                    message: "the database is away".to_owned(),
                });
            }
            let records = taken.iter().flat_map(|some| &some.records);
            broker.noted.extend(records.map(Record::position));
            Ok(())
        })
    }

    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut broker = lock(&self.broker);
            if broker.strikes(10, "the ledger does not take a failure") {
                return Err(TrackerError {
                    message: "the database is away".to_owned(),
                });
            }
            let positions = failures
                .iter()
                .map(|f| (f.record.partition().clone(), f.record.offset()));
            broker.recorded.extend(positions);
            Ok(())
        })
    }

    fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async {
            let mut broker = lock(&self.broker);
            let mut ranges = passed.ranges.iter();
            let early = ranges.find(|range| broker.committed[&range.partition] < range.next);
            if let Some(range) = early {
                broker.wrong = Some(format!("told of a commit that was not made: {range:?}"));
            }
            Ok(())
        })
    }
}

/// What metrics and health hear: a partition's committed offset never goes back unless they are told so.
struct Listener {
    broker: Shared,
    committed: BTreeMap<SourcePartition, i64>,
}

impl WorkerObserver for Listener {
    fn assigned(&mut self, partition: &SourcePartition, next: i64) {
        self.committed.insert(partition.clone(), next);
    }

    fn progressed(&mut self, partition: &SourcePartition, next: i64) {
        let before = self.committed.insert(partition.clone(), next);
        if before.is_some_and(|before| next < before) {
            let wrong = format!("told of {partition} at {next} after {before:?}");
            lock(&self.broker).wrong = Some(wrong);
        }
    }

    fn rewound(&mut self, partition: &SourcePartition, to: i64) {
        self.committed.insert(partition.clone(), to);
    }
}

fn settings(seed: u64, broker: &Broker, on_poison: AtomicOnPoison) -> WorkerSettings {
    let mut policy = if seed.is_multiple_of(2) {
        Policy::atomic()
    } else {
        Policy::skip_and_log()
    };
    policy.on_poison = on_poison;
    policy.dead_letters = true;
    policy.max_attempts = NonZeroU32::MIN.saturating_add(2);
    policy.backoff = Backoff {
        base: Duration::from_millis(20),
        max: Duration::from_millis(200),
    };
    if on_poison == AtomicOnPoison::Block {
        // Only so is there an end.
        for (partition, offsets) in &broker.source {
            let poison = offsets.iter().filter(|offset| {
                let nature = nature(seed, partition, **offset);
                matches!(nature, Nature::Poison | Nature::Refused)
            });
            let poison = poison.map(|offset| partition.at(*offset));
            policy.dead_letter_records.extend(poison);
        }
    }
    let choice = |of: &[usize]| of[(seed / 7) as usize % of.len()];
    WorkerSettings {
        consumer_group: "group".to_owned(),
        target_topic: Some("out".into()),
        dlq_topic: Some(DlqTopic::new("{topic}.dlq")),
        stage: StageSettings {
            concurrency: 4,
            timeout: Duration::from_secs(5),
            dead_letter_records: Arc::new(policy.dead_letter_records.clone()),
            end_the_process: Arc::default(),
        },
        policy,
        commit_interval: Duration::from_millis(5),
        max_records: choice(&[16, 3, 100]),
        max_bytes: choice(&[1 << 20, 2000]),
        max_output_bytes: choice(&[1 << 20, 10]),
        max_outputs_per_record: 10,
        output_dedup_header: false,
        held_max_bytes: choice(&[4000, 1 << 20, 1000]),
        drain_timeout: Duration::from_secs(600),
        // Always the same life: nothing that happens here ends a process.
        quarantine: (seed / 32 % 2 == 1).then_some(Quarantine {
            after: 3,
            owner: 1,
            life: 1,
        }),
        seed,
    }
}

/// What ATOMIC does with poison in this run, until it has stopped once.
fn on_poison(seed: u64) -> AtomicOnPoison {
    match seed / 2 % 4 {
        0 => AtomicOnPoison::Block,
        1 => AtomicOnPoison::Stop,
        _ => AtomicOnPoison::Dlq,
    }
}

/// Whether the ledger wants to hear of records first in this run.
fn notes_received(seed: u64) -> bool {
    seed / 16 % 2 == 1
}

/// A worker over ports of its own.
fn employ<T: Transformer>(
    broker: &Shared,
    settings: WorkerSettings,
    done: CancellationToken,
    transformer: T,
) -> Worker<ModelSession, ModelCommitter, T, Listener> {
    let (session, committer) = ports::open(broker, done);
    let ledger = Arc::new(Ledger {
        broker: broker.clone(),
        notes: notes_received(settings.seed),
    });
    let transformer = Arc::new(transformer);
    let listener = Listener {
        broker: broker.clone(),
        committed: BTreeMap::new(),
    };
    Worker::new(session, committer, transformer, ledger, settings, listener)
}

/// Runs in virtual time, which moves when everybody waits.
fn in_virtual_time<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// One worker's life.
async fn live(seed: u64, broker: &Shared, on_poison: AtomicOnPoison) -> End {
    let settings = settings(seed, &lock(broker), on_poison);
    let start = tokio::time::Instant::now();
    let ledger = broker.clone();
    let transformer = transform_async_fn(move |record: Record, attempt| {
        let mut broker = lock(&ledger);
        if notes_received(seed) && !broker.noted.contains(&record.position()) {
            let position = record.position();
            broker.wrong = Some(format!("transformed before it was noted: {position}"));
        }
        drop(broker);
        transform(record, attempt.number, seed, start)
    });
    let done = CancellationToken::new();
    let worker = employ(broker, settings, done.clone(), transformer);
    worker.run(done).await.end
}

/// One run; gives its log, or what was wrong.
fn run(seed: u64) -> Result<Vec<String>, String> {
    let broker = Arc::new(Mutex::new(Broker::new(seed, 3, 40)));
    let mut on_poison = on_poison(seed);
    let ended = in_virtual_time(async {
        let lives = async {
            loop {
                let end = live(seed, &broker, on_poison).await;
                let mut broker = lock(&broker);
                broker.note(format!("{end:?}"));
                broker.check()?;
                match end {
                    End::Drained if broker.all_passed() => return Ok(()),
                    // Drained in the middle, or its ports failed: there is a next one.
                    End::Drained | End::Failed(SessionFailure::Broken(_)) => {}
                    End::StoppedOnPoison(_) if on_poison == AtomicOnPoison::Stop => {
                        on_poison = AtomicOnPoison::Dlq;
                    }
                    end => return Err(format!("ended by {end:?}")),
                }
                broker.generation += 1;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), lives).await
    });
    let broker = lock(&broker);
    let log = || broker.log.join("\n");
    match ended {
        Ok(Ok(())) => Ok(broker.log.clone()),
        Ok(Err(error)) => Err(format!("{error}\n{}", log())),
        Err(_) => Err(format!(
            "no end within an hour: {:?}\n{}",
            broker.committed,
            log()
        )),
    }
}

#[test]
fn no_schedule_loses_doubles_or_reorders() {
    let seeds: u64 = std::env::var("MODEL_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(10_000);
    for seed in 0..seeds {
        if let Err(error) = run(seed) {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

const STRIPPED: [SliceFate; 2] = [SliceFate::Stripped, SliceFate::Stripped];

/// What becomes of a slice that does not begin where its partition stands, and of one of an old epoch.
fn fates_of_a_hole() -> Vec<SliceFate> {
    let broker = Arc::new(Mutex::new(Broker::new(0, 2, 10)));
    lock(&broker).faults_left = 0;
    let group = Group::default();
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
            mark: None,
        }
    });
    let producer = ModelProducer::new(broker, group.clone(), Mailbox::default());
    let mut unit = Unit {
        slices: slices.into(),
    };
    Transactor::new(producer, group, ())
        .commit(&mut unit, &mut ())
        .0
}

#[test]
fn the_gate_strips_what_does_not_follow() {
    assert_eq!(fates_of_a_hole(), STRIPPED);
}

#[cfg(feature = "test-faults")]
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
            Bug::MetadataTakenAtCommit,
            Bug::NoAbortOnLoss,
            Bug::KeptOverLoss,
            Bug::SuccessBeforeCommit,
            Bug::FailureAfterCommit,
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
