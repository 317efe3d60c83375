//! The model producer, for the real transactor: its every call may fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orchestrator_runtime::core::ports::SessionEvent;
use orchestrator_runtime::core::{Output, Record, SourcePartition, Topic};
use orchestrator_runtime::kafka::membership::Membership;
use orchestrator_runtime::kafka::transactor::{
    NextOffset, RefusedOutput, TransactionalProducer, TxnClass, TxnError,
};
use tokio::time::Instant;

use super::broker::Transaction;
use super::ports::{Group, Mailbox, Shared, lock};

/// The value of an output that the broker refuses.
pub(crate) const REFUSED: &str = "refused";

pub(crate) struct ModelProducer {
    broker: Shared,
    group: Group,
    mailbox: Mailbox,
    epoch: u32,
    /// What the next flush tells.
    refused: Vec<RefusedOutput>,
    disconnected: bool,
    clock: std::time::Instant,
}

fn error(class: TxnClass, message: &str) -> TxnError {
    TxnError {
        class,
        message: message.to_owned(),
    }
}

impl ModelProducer {
    pub(crate) fn new(broker: Shared, group: Group, mailbox: Mailbox) -> Self {
        Self {
            broker,
            group,
            mailbox,
            epoch: 0,
            refused: Vec::new(),
            disconnected: false,
            clock: Instant::now().into_std(),
        }
    }

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
            // Whoever has them now does not wait for our transaction, unless it has their offsets.
            broker.peer_works();
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
        self.maybe_lose();
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

    fn send_offsets(&mut self, offsets: &[NextOffset], metadata: &u32) -> Result<(), TxnError> {
        self.fenced()?;
        if offsets.is_empty() {
            // librdkafka does not ask the broker then.
            return Ok(());
        }
        let mut broker = lock(&self.broker);
        if *metadata != broker.generation {
            broker.note("illegal generation".to_owned());
            return Err(error(TxnClass::Membership, "ILLEGAL_GENERATION"));
        }
        if broker.strikes(25, "send_offsets times out") {
            return Err(error(TxnClass::Repeat, "send_offsets timed out"));
        }
        if let Some(open) = &mut broker.open {
            for offset in offsets {
                let NextOffset {
                    partition,
                    next,
                    mark,
                } = offset.clone();
                open.offsets.insert(partition, (next, mark));
            }
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
