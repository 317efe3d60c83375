//! A transactional producer on Kafka that can be replaced: [`TransactionalProducer`] over rdkafka. Driven by the
//! transactor on the transaction thread, which owns it. It must never decide what follows from an error, wait without
//! a bound, or take a record for sent that is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use orchestrator_core::{Output, Record, SourcePartition, Topic};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::watch;

use super::classify::{Blame, Call, blame, fatal_error, txn_error};
use super::deliveries::Deliveries;
use super::ffi;
use super::stop::StopSignal;
use super::transactor::{RefusedOutput, TransactionalProducer, TxnClass, TxnError};

mod batches;
mod outgoing;
mod retired;

use batches::Batches;
use retired::Retired;

/// How long one try to initialise may take; the next one goes on with it.
const INIT_PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for room in a full queue before looking again.
const QUEUE_FULL_PATIENCE: Duration = Duration::from_millis(2);
/// The first and the longest pause before something is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// librdkafka's own defaults.
const TRANSACTION_TIMEOUT_MS: u64 = 60_000;
const BATCH_SIZE: usize = 1_000_000;
/// librdkafka's largest `message.max.bytes`. Its own limit must not be the one that bites: the topic's is.
const NO_LIMIT: &str = "1000000000";

/// Asks for the group's committed offsets: stable ones, that no open transaction can change.
pub type CommittedLookup = Box<
    dyn Fn(&BTreeSet<SourcePartition>) -> Result<BTreeMap<SourcePartition, Option<i64>>, String>
        + Send,
>;

/// Asks for the smallest `max.message.bytes` of the topics written to, if any is known; afresh if told so.
pub type BatchLimit = Box<dyn FnMut(bool) -> Result<Option<usize>, String> + Send>;

type Instance = ThreadedProducer<Deliveries>;

/// What a [`KafkaProducer`] works with.
pub struct ProducerSettings {
    /// The settings of the client, with its `transactional.id`.
    pub client: ClientConfig,
    /// Where outputs go that name no topic.
    pub target: Option<Topic>,
    /// Asks for the group's committed offsets.
    pub committed: CommittedLookup,
    /// Asks how large a batch may be.
    pub batch_limit: BatchLimit,
    /// Ends the pauses between tries.
    pub stop: StopSignal,
}

/// A transactional producer with its transactional id, replaceable.
pub struct KafkaProducer {
    settings: ProducerSettings,
    transaction_timeout: Duration,
    instance: Option<Instance>,
    /// Whether the instance is initialised; if not, initialising goes on with it.
    initialised: watch::Sender<bool>,
    batches: Batches,
    begun: Instant,
    retired: Retired,
}

impl KafkaProducer {
    /// A producer without an instance: [`replace`](TransactionalProducer::replace) makes the first.
    pub fn new(settings: ProducerSettings) -> Self {
        let timeout_ms = number(&settings.client, "transaction.timeout.ms");
        Self {
            transaction_timeout: Duration::from_millis(
                timeout_ms.unwrap_or(TRANSACTION_TIMEOUT_MS),
            ),
            batches: Batches::new(number(&settings.client, "batch.size").unwrap_or(BATCH_SIZE)),
            settings,
            instance: None,
            initialised: watch::Sender::new(false),
            begun: Instant::now(),
            retired: Retired::default(),
        }
    }

    /// Whether it is initialised: true from each successful `replace` to the next one's beginning.
    pub fn initialised(&self) -> watch::Receiver<bool> {
        self.initialised.subscribe()
    }

    /// The instance to be initialised: the one whose initialising timed out, or a new one in the place of the old.
    /// Never a second beside one that still initialises: its request could arrive later and fence the newer one.
    fn instance_to_initialise(&mut self) -> Result<Instance, TxnError> {
        if let Some(old) = self.instance.take() {
            if !*self.initialised.borrow() {
                return Ok(old);
            }
            self.retire(old);
        }
        self.initialised.send_replace(false);
        let limit = (self.settings.batch_limit)(self.batches.doubt_limit()).map_err(|error| {
            repeat(format!(
                "cannot look up the topics that are written to: {error}"
            ))
        })?;
        let batch_size = self.batches.next(limit);
        let mut client = self.settings.client.clone();
        client.set("batch.size", batch_size.to_string());
        if client.get("message.max.bytes").is_none() {
            client.set("message.max.bytes", NO_LIMIT);
        }
        // Lost connections are told at this level.
        client.set_log_level(RDKafkaLogLevel::Info);
        client
            .create_with_context(Deliveries::new(batch_size))
            .map_err(|error| TxnError {
                class: TxnClass::Fatal,
                message: format!("cannot create the transactional producer: {error}"),
            })
    }

    fn retire(&mut self, instance: Instance) {
        let context = instance.context();
        if let Some(flaw) = context.doubt() {
            self.batches.refused(flaw, context.batch_size());
        }
        self.retired.take(instance);
    }

    fn running(&self) -> Result<&Instance, TxnError> {
        self.instance.as_ref().ok_or_else(|| TxnError {
            class: TxnClass::Fatal,
            message: "there is no initialised producer".to_owned(),
        })
    }

    /// How long one call of the transaction API may take; the transactor repeats it.
    fn call_patience(&self) -> Duration {
        self.transaction_timeout / 4
    }

    /// What is left for deliveries: beyond `message.timeout.ms`, so that its failures are seen, and early enough for
    /// an abort.
    fn delivery_time_left(&self) -> Duration {
        (self.transaction_timeout * 3 / 4).saturating_sub(self.begun.elapsed())
    }

    fn init_error(&self, error: &KafkaError) -> TxnError {
        let TxnError { class, message } = txn_error(Call::Init, error);
        let told = |key| self.settings.client.get(key).unwrap_or_default();
        TxnError {
            class,
            message: format!(
                "{message} (transactional id {}, brokers {} of ORCH_BOOTSTRAP_SERVERS)",
                told("transactional.id"),
                told("bootstrap.servers"),
            ),
        }
    }
}

impl TransactionalProducer for KafkaProducer {
    type Metadata = ConsumerGroupMetadata;

    fn replace(&mut self) -> Result<(), TxnError> {
        let instance = self.instance_to_initialise()?;
        match instance.init_transactions(INIT_PATIENCE) {
            Ok(()) => {
                instance.context().arm();
                self.instance = Some(instance);
                self.initialised.send_replace(true);
                Ok(())
            }
            Err(error) => {
                let error = self.init_error(&error);
                if error.class == TxnClass::Repeat {
                    self.instance = Some(instance);
                } else {
                    self.retire(instance);
                }
                Err(error)
            }
        }
    }

    fn begin(&mut self) -> Result<(), TxnError> {
        self.begun = Instant::now();
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
        let instance = self
            .running()
            .map_err(|error| refused(topic, error.message, Blame::Circumstances))?;
        let mut outgoing = outgoing::outgoing(topic, slice, record, output);
        loop {
            let (error, back) = match instance.send(outgoing) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let left = self.delivery_time_left();
            match error.rdkafka_error_code() {
                Some(Code::QueueFull) if !left.is_zero() => {
                    // Whether all are delivered by then does not matter: there is room once some are.
                    match ffi::flush(instance.client(), left.min(QUEUE_FULL_PATIENCE)) {
                        Ok(()) | Err(_) => outgoing = back,
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
        let flushed = ffi::flush(instance.client(), self.delivery_time_left());
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
        offsets: &[(SourcePartition, i64)],
        metadata: &ConsumerGroupMetadata,
    ) -> Result<(), TxnError> {
        let failed = |error| txn_error(Call::SendOffsets, &error);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, next) in offsets {
            list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(*next))
                .map_err(failed)?;
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
        self.instance.as_ref().is_none_or(|instance| {
            let context = instance.context();
            context.disconnected() || self.batches.could_be_larger(context.batch_size())
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

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        self.initialised.send_replace(false);
        if let Some(instance) = self.instance.take() {
            self.retired.take(instance);
        }
    }
}

impl fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaProducer")
            .field(
                "transactional_id",
                &self.settings.client.get("transactional.id"),
            )
            .field("initialised", &*self.initialised.borrow())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ProducerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client's settings hold secrets.
        f.debug_struct("ProducerSettings")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

fn repeat(message: String) -> TxnError {
    TxnError {
        class: TxnClass::Repeat,
        message,
    }
}

fn number<T: std::str::FromStr>(client: &ClientConfig, key: &str) -> Option<T> {
    client.get(key)?.parse().ok()
}
