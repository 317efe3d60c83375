//! All of the runtime that a record goes through but librdkafka: buffer, lanes, transform, decisions, units, gate. Over
//! ports in memory, on one thread. Shared by the benches.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{pending, ready};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_runtime::core::ports::{
    Committer, Epoch, Guarantee, Intake, Report, Session, SessionEvent, Slice, TopicFacts, Unit,
};
use orchestrator_runtime::core::{
    Context, Output, Policy, Record, RecordBuffer, SourcePartition, Topic, TransformError,
    transform_fn,
};
use orchestrator_runtime::kafka::membership::Membership;
use orchestrator_runtime::kafka::transactor::{
    NextOffset, RefusedOutput, TransactionalProducer, Transactor, TxnError,
};
use orchestrator_runtime::tracker::NoTracker;
use orchestrator_runtime::worker::Worker;
use orchestrator_runtime::worker::settings::WorkerSettings;
use orchestrator_runtime::worker::stage::StageSettings;
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 8;
const BATCH: usize = 2_000;
const VALUE: [u8; 316] = [b'x'; 316];

/// Passes so many records; gives how many came out at the other end.
pub(crate) fn pass(records: usize) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(passing(records))
}

async fn passing(records: usize) -> u64 {
    let drain = CancellationToken::new();
    let membership = Arc::new(Membership::default());
    membership.refresh(Some(()));
    let session = Memory {
        membership: membership.clone(),
        next: 0,
        left: records,
        assigned: false,
    };
    let committer = Straight {
        transactor: Transactor::new(Nowhere, membership, ()),
        report: None,
        passed: 0,
        all: records,
        drain: drain.clone(),
    };
    let copy = transform_fn(|record: &Record, _: &Context<'_>| {
        let value = record
            .value_bytes()
            .ok_or_else(|| TransformError::permanent("no value"))?;
        Ok(Output::new(value))
    });
    let tracker = Arc::new(NoTracker::new("bench"));
    let worker = Worker::new(session, committer, Arc::new(copy), tracker, settings(), ());
    worker.run(drain).await.counts.outputs
}

fn settings() -> WorkerSettings {
    WorkerSettings {
        policy: Policy::atomic(),
        consumer_group: "bench".to_owned(),
        target_topic: Some(Topic::new("out")),
        dlq_topic: None,
        stage: StageSettings {
            concurrency: 64,
            timeout: Duration::from_secs(30),
            dead_letter_records: Arc::default(),
            end_the_process: Arc::default(),
        },
        commit_interval: Duration::ZERO,
        max_records: 20_000,
        max_bytes: 32 << 20,
        max_output_bytes: 32 << 20,
        max_outputs_per_record: 1_000,
        output_dedup_header: false,
        held_max_bytes: 256 << 20,
        drain_timeout: Duration::from_secs(10),
        quarantine: None,
        seed: 1,
    }
}

fn partition(number: i32) -> SourcePartition {
    SourcePartition::new("in", number)
}

/// Batches of eight partitions in turn.
struct Memory {
    membership: Arc<Membership<()>>,
    next: i64,
    left: usize,
    assigned: bool,
}

impl Session for Memory {
    async fn next(&mut self, want_records: bool) -> Intake {
        let mut intake = Intake::default();
        if !self.assigned {
            self.assigned = true;
            for number in 0..PARTITIONS {
                self.membership.own(partition(number), Epoch(1), 0);
                intake.events.push(SessionEvent::Assigned {
                    partition: partition(number),
                    epoch: Epoch(1),
                    position: 0,
                    remember: false,
                    mark: None,
                });
            }
            return intake;
        }
        let records = BATCH.min(self.left) / PARTITIONS as usize;
        if !want_records || records == 0 {
            return pending().await;
        }
        self.left -= records * PARTITIONS as usize;
        let next = self.next + records as i64;
        for number in 0..PARTITIONS {
            let mut buffer = RecordBuffer::default();
            for offset in self.next..next {
                buffer.push(offset, Some(1), Some(b"customer-1"), Some(&VALUE), []);
            }
            intake.slices.push(Slice {
                records: buffer.freeze(&partition(number)),
                partition: partition(number),
                epoch: Epoch(1),
                from: self.next,
                next,
            });
        }
        self.next = next;
        intake
    }

    fn pause(&mut self, _: &SourcePartition, _: Epoch) {}

    fn resume(&mut self, _: &SourcePartition, _: Epoch, _: i64) {}

    async fn close(self) {}
}

/// The real transactor, on the spot.
struct Straight {
    transactor: Transactor<Nowhere>,
    report: Option<Report>,
    passed: usize,
    all: usize,
    drain: CancellationToken,
}

impl Committer for Straight {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn submit(&mut self, mut unit: Unit) {
        self.passed += unit.slices.iter().map(|s| s.done.len()).sum::<usize>();
        if self.passed == self.all {
            self.drain.cancel();
        }
        let (fates, ended) = self.transactor.commit(&mut unit, &mut ());
        self.report = Some(Report { unit, fates, ended });
    }

    fn extend(&mut self, _: &mut Unit) -> bool {
        false
    }

    fn queued(&mut self, _queued: bool) {}

    fn seal(&mut self) {}

    async fn report(&mut self) -> Report {
        match self.report.take() {
            Some(report) => report,
            None => pending().await,
        }
    }

    fn topic_facts(&mut self, _: &Topic) -> impl Future<Output = Result<TopicFacts, String>> {
        ready(Ok(TopicFacts::Known {
            max_message_bytes: 1 << 20,
        }))
    }

    async fn close(self) {}
}

/// Takes everything and sends nothing.
struct Nowhere;

impl TransactionalProducer for Nowhere {
    type Metadata = ();

    fn replace(&mut self) -> Result<(), TxnError> {
        Ok(())
    }

    fn begin(&mut self) -> Result<(), TxnError> {
        Ok(())
    }

    fn send(&mut self, _: usize, record: &Record, output: &Output) -> Result<(), RefusedOutput> {
        std::hint::black_box((output.key_given(record), output.value()));
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<RefusedOutput>, TxnError> {
        Ok(Vec::new())
    }

    fn send_offsets(&mut self, _: &[NextOffset], (): &()) -> Result<(), TxnError> {
        Ok(())
    }

    fn commit(&mut self) -> Result<(), TxnError> {
        Ok(())
    }

    fn abort(&mut self) -> Result<(), TxnError> {
        Ok(())
    }

    fn committed(
        &mut self,
        _: &BTreeSet<SourcePartition>,
    ) -> Result<BTreeMap<SourcePartition, Option<i64>>, TxnError> {
        Ok(BTreeMap::new())
    }

    fn disconnected(&self) -> bool {
        false
    }

    fn transaction_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn pause(&mut self, _: u32) -> bool {
        false
    }
}
