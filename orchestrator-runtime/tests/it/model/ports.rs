//! The two ports over the model broker: a session that loses and gains partitions at random, and the real transactor
//! over a producer whose every call may fail.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use orchestrator_runtime::core::ports::{
    Committer, Epoch, Guarantee, Intake, Report, Session, SessionEvent, SessionFailure, Slice,
    SliceFate, TopicFacts, Unit,
};
use orchestrator_runtime::core::{Output, Record, SourcePartition, Topic};
use orchestrator_runtime::kafka::membership::Membership;
use orchestrator_runtime::kafka::transactor::{
    RefusedOutput, TransactionalProducer, Transactor, TxnClass, TxnError,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broker::{Broker, Transaction};

pub(crate) type Shared = Arc<Mutex<Broker>>;
/// The value of an output that the broker refuses.
pub(crate) const REFUSED: &str = "refused";
pub(crate) type Group = Arc<Membership<u32>>;

pub(crate) fn lock(broker: &Shared) -> MutexGuard<'_, Broker> {
    broker.lock().unwrap()
}

struct Reading {
    epoch: Epoch,
    position: i64,
    paused: bool,
}

/// Events that a fault in the middle of a transaction leaves for the session.
pub(crate) type Mailbox = Arc<Mutex<VecDeque<SessionEvent>>>;

pub(crate) struct ModelSession {
    pub(crate) broker: Shared,
    pub(crate) group: Group,
    pub(crate) mailbox: Mailbox,
    pub(crate) done: CancellationToken,
    reading: BTreeMap<SourcePartition, Reading>,
    lost: BTreeSet<SourcePartition>,
}

impl ModelSession {
    pub(crate) fn new(
        broker: Shared,
        group: Group,
        mailbox: Mailbox,
        done: CancellationToken,
    ) -> Self {
        Self {
            broker,
            group,
            mailbox,
            done,
            reading: BTreeMap::new(),
            lost: BTreeSet::new(),
        }
    }

    /// Everything the broker says is ours and we do not read is assigned.
    fn assign(&mut self, events: &mut Vec<SessionEvent>) {
        let mut broker = lock(&self.broker);
        let new: Vec<_> = broker
            .ours
            .iter()
            .filter(|p| !self.reading.contains_key(*p))
            .cloned()
            .collect();
        if new.is_empty() {
            return;
        }
        self.group.refresh(Some(broker.generation));
        for partition in new {
            // Stable offsets: an open transaction's are waited for.
            if broker
                .open
                .as_ref()
                .is_some_and(|t| t.offsets.contains_key(&partition))
            {
                continue;
            }
            if self.lost.contains(&partition) {
                if broker.random.u8(0..4) != 0 {
                    continue;
                }
                self.lost.remove(&partition);
                let partition = partition.clone();
                events.push(SessionEvent::Revoked { partition });
            }
            let position = broker.committed[&partition];
            let epoch = self.group.next_epoch();
            if broker.strikes(40, "the offset is lost") {
                self.lost.insert(partition.clone());
                events.push(SessionEvent::OffsetLost {
                    partition,
                    epoch,
                    committed: position,
                    low: position,
                    high: position,
                });
                continue;
            }
            self.group.own(partition.clone(), epoch, position);
            self.reading.insert(
                partition.clone(),
                Reading {
                    epoch,
                    position,
                    paused: false,
                },
            );
            events.push(SessionEvent::Assigned {
                partition,
                epoch,
                position,
                remember: broker.random.bool(),
            });
        }
    }

    fn rebalance(&mut self, events: &mut Vec<SessionEvent>) {
        let mut broker = lock(&self.broker);
        if broker.strikes(20, "partitions revoked") {
            let ours: Vec<_> = broker.ours.iter().cloned().collect();
            let gone: Vec<_> = ours.into_iter().filter(|_| broker.random.bool()).collect();
            // In the callback: fresh metadata, then wait for the transaction (none runs while we are polled).
            self.group.refresh(Some(broker.generation));
            self.group.revoke(&gone, Duration::ZERO);
            broker.take_away(&gone);
            self.group.refresh(Some(broker.generation));
            for partition in gone {
                self.reading.remove(&partition);
                self.lost.remove(&partition);
                events.push(SessionEvent::Revoked { partition });
            }
        }
        if broker.strikes(200, "the session fails") {
            let failure = SessionFailure::Broken("the session fails".to_owned());
            events.push(SessionEvent::Failed(failure));
        }
        if broker.strikes(300, "drained in the middle") {
            self.done.cancel();
        }
        if broker.strikes(30, "generation moves without a callback") {
            broker.generation += 1;
        }
        broker.peer_works();
        if broker.ours.len() < broker.source.len()
            && (broker.faults_left == 0 || broker.random.u8(0..4) == 0)
        {
            let all: BTreeSet<_> = broker.source.keys().cloned().collect();
            broker.generation += 1;
            broker.ours = all;
        }
    }
}

impl Session for ModelSession {
    async fn next(&mut self, want_records: bool) -> Intake {
        loop {
            let mut intake = Intake::default();
            while let Some(event) = self.mailbox.lock().unwrap().pop_front() {
                if let SessionEvent::Revoked { partition } = &event {
                    self.reading.remove(partition);
                    self.lost.remove(partition);
                }
                intake.events.push(event);
            }
            self.rebalance(&mut intake.events);
            self.assign(&mut intake.events);
            if want_records {
                let mut broker = lock(&self.broker);
                for (partition, reading) in &mut self.reading {
                    if reading.paused || broker.random.u8(0..3) == 0 {
                        continue;
                    }
                    let count = broker.random.usize(1..6);
                    let offsets: Vec<i64> = broker.source[partition]
                        .iter()
                        .copied()
                        .filter(|o| *o >= reading.position)
                        .take(count)
                        .collect();
                    let Some(last) = offsets.last() else { continue };
                    let next = last + 1;
                    let from = std::mem::replace(&mut reading.position, next);
                    let record = |offset: &i64| {
                        Record::builder(partition.topic.clone(), partition.partition, *offset)
                            .value("v")
                            .build()
                    };
                    intake.slices.push(Slice {
                        partition: partition.clone(),
                        epoch: reading.epoch,
                        from,
                        next,
                        records: offsets.iter().map(record).collect(),
                    });
                }
                if broker.all_passed() {
                    self.done.cancel();
                }
            }
            if !intake.events.is_empty() || !intake.slices.is_empty() {
                return intake;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    fn pause(&mut self, partition: &SourcePartition, epoch: Epoch) {
        if let Some(reading) = self.reading.get_mut(partition).filter(|r| r.epoch == epoch) {
            reading.paused = true;
        }
    }

    fn resume(&mut self, partition: &SourcePartition, epoch: Epoch, at: i64) {
        if let Some(reading) = self.reading.get_mut(partition).filter(|r| r.epoch == epoch) {
            reading.paused = false;
            reading.position = at;
        }
    }

    async fn close(self) {}
}

pub(crate) struct ModelProducer {
    pub(crate) broker: Shared,
    pub(crate) group: Group,
    pub(crate) mailbox: Mailbox,
    pub(crate) epoch: u32,
    /// What the next flush tells.
    pub(crate) refused: Vec<RefusedOutput>,
    pub(crate) disconnected: bool,
    pub(crate) clock: std::time::Instant,
}

fn error(class: TxnClass, message: &str) -> TxnError {
    TxnError {
        class,
        message: message.to_owned(),
    }
}

impl ModelProducer {
    fn fenced(&self) -> Result<(), TxnError> {
        if lock(&self.broker).producer_epoch == self.epoch {
            Ok(())
        } else {
            Err(error(TxnClass::Fatal, "producer epoch is old"))
        }
    }

    /// In the middle of a transaction: the group takes partitions away without waiting for us.
    fn maybe_lose(&mut self) {
        let mut broker = lock(&self.broker);
        if broker.strikes(60, "partitions lost in the middle of a transaction") {
            let ours: Vec<_> = broker.ours.iter().cloned().collect();
            let gone: Vec<_> = ours.into_iter().filter(|_| broker.random.bool()).collect();
            broker.take_away(&gone);
            self.group.lose(&gone);
            self.group.refresh(Some(broker.generation));
            let mut mailbox = self.mailbox.lock().unwrap();
            mailbox.extend(
                gone.into_iter()
                    .map(|partition| SessionEvent::Revoked { partition }),
            );
        }
    }
}

impl TransactionalProducer for ModelProducer {
    type Metadata = u32;

    fn replace(&mut self) -> Result<(), TxnError> {
        let mut broker = lock(&self.broker);
        if broker.strikes(10, "init times out") {
            return Err(error(TxnClass::Repeat, "init timed out"));
        }
        broker.abort_open();
        broker.producer_epoch += 1;
        self.epoch = broker.producer_epoch;
        self.refused.clear();
        broker.out_of_order = false;
        self.disconnected = false;
        Ok(())
    }

    fn begin(&mut self) -> Result<(), TxnError> {
        self.fenced()?;
        let mut broker = lock(&self.broker);
        assert!(broker.open.is_none(), "begin with an open transaction");
        broker.open = Some(Transaction::default());
        self.refused.clear();
        self.disconnected = false;
        Ok(())
    }

    fn send(
        &mut self,
        slice: usize,
        record: &Record,
        output: &Output,
    ) -> Result<(), RefusedOutput> {
        let mut broker = lock(&self.broker);
        if broker.strikes(150, "send refuses") {
            return Err(RefusedOutput {
                slice,
                topic: Topic::from("out"),
                message: "queue full for good".to_owned(),
                blames_output: false,
                permanent: false,
            });
        }
        if output.topic().is_none() && output.value() == Some(REFUSED.as_bytes()) {
            broker.out_of_order = true;
            self.refused.push(RefusedOutput {
                slice,
                topic: Topic::from("out"),
                message: "no key".to_owned(),
                blames_output: true,
                permanent: true,
            });
            return Ok(());
        }
        let index = if output.topic().is_some() { -1 } else { 0 };
        if let Some(open) = &mut broker.open {
            open.outputs
                .push((record.partition().clone(), record.offset(), index));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<RefusedOutput>, TxnError> {
        self.maybe_lose();
        if lock(&self.broker).strikes(40, "flush times out") {
            return Err(error(TxnClass::Abort, "flush timed out"));
        }
        let refused = std::mem::take(&mut self.refused);
        if refused.is_empty() && lock(&self.broker).out_of_order {
            return Err(error(TxnClass::Abort, "OUT_OF_ORDER_SEQUENCE_NUMBER"));
        }
        Ok(refused)
    }

    fn send_offsets(
        &mut self,
        offsets: &[(SourcePartition, i64)],
        metadata: &u32,
    ) -> Result<(), TxnError> {
        self.fenced()?;
        let mut broker = lock(&self.broker);
        if *metadata != broker.generation {
            broker.note("illegal generation".to_owned());
            return Err(error(TxnClass::Membership, "ILLEGAL_GENERATION"));
        }
        if broker.strikes(25, "send_offsets times out") {
            return Err(error(TxnClass::Repeat, "send_offsets timed out"));
        }
        if let Some(open) = &mut broker.open {
            open.offsets.extend(offsets.iter().cloned());
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), TxnError> {
        self.fenced()?;
        let mut broker = lock(&self.broker);
        if broker.strikes(25, "commit is done but its answer is lost") {
            broker.commit_open();
            return Err(error(TxnClass::Fatal, "unknown outcome"));
        }
        if broker.strikes(25, "commit is not done and its answer is lost") {
            return Err(error(TxnClass::Fatal, "unknown outcome"));
        }
        if broker.strikes(25, "commit is done but its answer asks for an abort") {
            broker.commit_open();
            return Err(error(TxnClass::Abort, "abort required"));
        }
        if broker.strikes(25, "commit must be repeated") {
            return Err(error(TxnClass::Repeat, "commit timed out"));
        }
        broker.commit_open();
        Ok(())
    }

    fn abort(&mut self) -> Result<(), TxnError> {
        self.fenced()?;
        let mut broker = lock(&self.broker);
        if broker.open.is_none() || broker.strikes(20, "abort fails") {
            return Err(error(TxnClass::Fatal, "abort failed"));
        }
        broker.abort_open();
        Ok(())
    }

    fn committed(
        &mut self,
        partitions: &BTreeSet<SourcePartition>,
    ) -> Result<BTreeMap<SourcePartition, Option<i64>>, TxnError> {
        let mut broker = lock(&self.broker);
        if broker.strikes(10, "committed offsets cannot be asked for") {
            return Err(error(TxnClass::Repeat, "no answer"));
        }
        let mut answer = BTreeMap::new();
        for partition in partitions {
            if !broker.strikes(6, "no committed offset for one partition") {
                let committed = broker.committed.get(partition).copied();
                answer.insert(partition.clone(), committed);
            }
        }
        Ok(answer)
    }

    fn disconnected(&self) -> bool {
        self.disconnected
    }

    fn transaction_timeout(&self) -> Duration {
        Duration::from_secs(15)
    }

    fn now(&self) -> std::time::Instant {
        self.clock
    }

    fn pause(&mut self, tries: u32) -> bool {
        self.clock += Duration::from_millis(u64::from(tries) * 10);
        true
    }

    fn await_refresh(&mut self, membership: &Membership<u32>, _taken: u64) {
        let generation = lock(&self.broker).generation;
        membership.refresh(Some(generation));
    }
}

/// Commits at once, and reports a little later.
pub(crate) struct ModelCommitter {
    pub(crate) transactor: Transactor<ModelProducer>,
    pub(crate) broker: Shared,
    pub(crate) report: Option<(Instant, Report)>,
}

impl ModelCommitter {
    fn commit(&mut self, unit: &Unit) -> (Vec<SliceFate>, Option<SessionFailure>) {
        let mut broker = lock(&self.broker);
        if broker.strikes(40, "the transaction thread ends") {
            let ended = SessionFailure::Broken("no more".to_owned());
            return (vec![SliceFate::Stripped; unit.slices.len()], Some(ended));
        }
        // Nothing was committed, and this is said in other ways than the transactor would.
        let fate: fn(i64) -> SliceFate = if broker.strikes(30, "everything is to be read again") {
            |committed| SliceFate::Rewind { to: committed }
        } else if broker.strikes(30, "offsets cannot be committed") {
            |_| SliceFate::Stuck {
                error: "not now".to_owned(),
            }
        } else {
            drop(broker);
            return self.transactor.commit(unit);
        };
        let slices = unit.slices.iter();
        let fates = slices.map(|slice| fate(broker.committed[&slice.partition]));
        (fates.collect(), None)
    }
}

impl Committer for ModelCommitter {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn submit(&mut self, unit: Unit) {
        assert!(self.report.is_none(), "a unit is under way");
        let (fates, ended) = self.commit(&unit);
        let takes = Duration::from_millis(lock(&self.broker).random.u64(1..20));
        self.report = Some((Instant::now() + takes, Report { unit, fates, ended }));
    }

    async fn report(&mut self) -> Report {
        let at = self.report.as_ref().map(|(at, _)| *at);
        match at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.report.take().map(|(_, report)| report).unwrap()
    }

    async fn topic_facts(&mut self, _topic: &Topic) -> Result<TopicFacts, String> {
        let silent = lock(&self.broker).silent;
        let takes = if silent { 10_000 } else { 2 };
        tokio::time::sleep(Duration::from_millis(takes)).await;
        if silent {
            return Err("no answer".to_owned());
        }
        let mut broker = lock(&self.broker);
        if broker.strikes(20, "a topic cannot be looked up") {
            return Err("no answer".to_owned());
        }
        if broker.strikes(20, "a topic is missing") {
            return Ok(TopicFacts::Missing);
        }
        Ok(TopicFacts::Known {
            max_message_bytes: 1_000_000,
        })
    }

    async fn close(self) {}
}
