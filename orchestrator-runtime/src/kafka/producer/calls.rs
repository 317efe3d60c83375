//! The producer's calls, as the transactor makes them: one transaction after the other. It must never commit or retry
//! by itself, and tells every output that was not taken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use orchestrator_core::{Output, Record, SourcePartition, Topic};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use super::super::classify::{Blame, Call, blame, fatal_error, txn_error};
use super::super::ffi;
use super::super::transactor::{
    NextOffset, RefusedOutput, TransactionalProducer, TxnClass, TxnError,
};
use super::{Instance, KafkaProducer, outgoing, repeat};

/// How long a failed delivery may go unnoticed while others are waited for.
const LOOK_AT_FAILURES_EVERY: Duration = Duration::from_millis(20);
/// How long to wait for room in a full queue before looking again.
const QUEUE_FULL_PATIENCE: Duration = Duration::from_millis(2);
/// The first and the longest pause before something is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
impl TransactionalProducer for KafkaProducer {
    type Metadata = ConsumerGroupMetadata;

    fn replace(&mut self) -> Result<(), TxnError> {
        self.renew()
    }

    fn begin(&mut self) -> Result<(), TxnError> {
        self.delivery_deadline = Instant::now() + self.transaction_timeout * 3 / 4;
        self.turn = 1 - self.turn;
        let instance = self.running()?;
        instance.context().clear();
        instance
            .begin_transaction()
            .map_err(|error| txn_error(Call::Begin, &error))
    }

    fn send(
        &mut self,
        slice: usize,
        record: &Record,
        output: &Output,
    ) -> Result<(), RefusedOutput> {
        let refused = |topic: &Topic, message: String, blame: Blame| RefusedOutput {
            slice,
            topic: topic.clone(),
            message,
            blames_output: blame.blames_output(),
            permanent: blame.is_permanent(),
        };
        let Some(topic) = output.topic().or(self.settings.target.as_ref()) else {
            let message = "the output names no topic, and ORCH_TARGET_TOPIC is not set".to_owned();
            return Err(refused(&Topic::new(""), message, Blame::Output));
        };
        let instance = self.instances[self.turn]
            .as_mut()
            .ok_or_else(|| refused(topic, not_initialised().message, Blame::Circumstances))?;
        let mut outgoing = outgoing::outgoing(topic, record, output);
        loop {
            let error = match instance.send(&mut outgoing, slice) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let left = self
                .delivery_deadline
                .saturating_duration_since(Instant::now());
            match error.rdkafka_error_code() {
                Some(Code::QueueFull) if !left.is_zero() && !instance.context().any_failed() => {
                    // Whether all are delivered by then does not matter: there is room once some are.
                    match ffi::flush(instance.client(), left.min(QUEUE_FULL_PATIENCE)) {
                        Ok(()) | Err(_) => {}
                    }
                }
                Some(code) => return Err(refused(topic, error.to_string(), blame(code))),
                // A topic name with a NUL in it.
                None => return Err(refused(topic, error.to_string(), Blame::Output)),
            }
        }
    }

    fn flush(&mut self) -> Result<Vec<RefusedOutput>, TxnError> {
        let instance = self.running()?;
        // Once a delivery has failed, others may be back in the queue, where they stay until they time out. One more
        // look, because the one to blame may come after those that were purged with it.
        let mut failed_before = false;
        let flushed = loop {
            let left = self
                .delivery_deadline
                .saturating_duration_since(Instant::now());
            let flushed = ffi::flush(instance.client(), left.min(LOOK_AT_FAILURES_EVERY));
            let failed = instance.context().any_failed();
            if flushed.is_ok() || left.is_zero() || (failed && failed_before) {
                break flushed;
            }
            failed_before = failed;
        };
        // A twin is told from a failure only here: an abort would fail for any reason.
        if let Some((code, reason)) = instance.client().fatal_error() {
            return Err(fatal_error(Call::Flush, code, &reason));
        }
        let failed: Vec<_> = instance
            .context()
            .take()
            .into_iter()
            .map(|(slice, failed)| RefusedOutput {
                slice,
                message: format!("{} refused it: {}", failed.topic, failed.code),
                topic: failed.topic,
                blames_output: failed.blame.blames_output(),
                permanent: failed.blame.is_permanent(),
            })
            .collect();
        match flushed {
            Err(code) if failed.is_empty() => Err(txn_error(Call::Flush, &KafkaError::Flush(code))),
            _ => Ok(failed),
        }
    }

    fn send_offsets(
        &mut self,
        offsets: &[NextOffset],
        metadata: &ConsumerGroupMetadata,
    ) -> Result<(), TxnError> {
        let failed = |error| txn_error(Call::SendOffsets, &error);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for NextOffset {
            partition,
            next,
            mark,
        } in offsets
        {
            let mut entry = list.add_partition(&partition.topic, partition.partition);
            entry.set_offset(Offset::Offset(*next)).map_err(failed)?;
            if let Some(mark) = mark {
                entry.set_metadata(mark.to_string());
            }
        }
        self.running()?
            .send_offsets_to_transaction(&list, metadata, self.call_patience())
            .map_err(failed)
    }

    fn commit(&mut self) -> Result<(), TxnError> {
        self.running()?
            .commit_transaction(self.call_patience())
            .map_err(|error| txn_error(Call::Commit, &error))?;
        self.batches.committed();
        Ok(())
    }

    fn abort(&mut self) -> Result<(), TxnError> {
        self.running()?
            .abort_transaction(self.call_patience())
            .map_err(|error| txn_error(Call::Abort, &error))
    }

    fn committed(
        &mut self,
        partitions: &BTreeSet<SourcePartition>,
    ) -> Result<BTreeMap<SourcePartition, Option<i64>>, TxnError> {
        (self.settings.committed)(partitions).map_err(repeat)
    }

    /// Also true of one that sends records one by one, once that has led to a commit: it is replaced by a faster one.
    fn disconnected(&self) -> bool {
        self.batches.could_be_larger(self.batch_size)
            || self.instances.iter().any(|instance| {
                let lost = |instance: &Instance| instance.context().disconnected();
                instance.as_ref().is_none_or(lost)
            })
    }

    fn transaction_timeout(&self) -> Duration {
        self.transaction_timeout
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn pause(&mut self, tries: u32) -> bool {
        let (first, longest) = PAUSE;
        let doublings = tries.saturating_sub(1).min(16);
        self.settings
            .stop
            .wait((first * 2_u32.pow(doublings)).min(longest))
    }
}

impl KafkaProducer {
    fn running(&self) -> Result<&Instance, TxnError> {
        self.instances[self.turn]
            .as_ref()
            .ok_or_else(not_initialised)
    }

    /// How long one call of the transaction API may take; the transactor repeats it.
    fn call_patience(&self) -> Duration {
        self.transaction_timeout / 4
    }
}

fn not_initialised() -> TxnError {
    TxnError {
        class: TxnClass::Fatal,
        message: "there is no initialised producer".to_owned(),
    }
}
