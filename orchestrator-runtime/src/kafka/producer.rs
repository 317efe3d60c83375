//! A transactional producer on Kafka that can be replaced: `TransactionalProducer` over rdkafka. Driven by the
//! transactor on the transaction thread, which owns it. It must never decide what follows from an error, wait without
//! a bound, or take a record for sent that is not. Here: its life, from one pair of instances to the next; `calls.rs`
//! has the transactions.
//!
//! Two instances, each with a transactional id of its own, take transactions in turn. Once a commit is answered the
//! broker has yet to write its markers, and refuses that id a new transaction until then (CONCURRENT_TRANSACTIONS),
//! which librdkafka (2.12) tries again after 20 ms. The other id may begin at once: see `docs/adr/0002-transactor.md`
//! for why that is as safe.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use orchestrator_core::{SourcePartition, Topic};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;
use tokio::sync::watch;

use super::classify::{Call, txn_error};
use super::deliveries::Deliveries;
use super::ffi::TopicProducer;
use super::lost_brokers::{LostBrokers, finds_a_broker};
use super::stop::StopSignal;
use super::transactor::{TxnClass, TxnError};
use crate::kill_points::{KillPoint, kill_point};

mod batches;
mod calls;
mod outgoing;
mod retired;

use batches::Batches;
use retired::Retired;

/// How long one try to initialise may take; the next one goes on with it.
const INIT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a new one may take to connect before that.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
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

type Instance = TopicProducer<Deliveries>;

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

/// An instance that is being initialised.
struct Initialising {
    instance: Instance,
    /// When it was seen last that it finds a broker.
    well: Instant,
}

/// A transactional producer with its transactional id, replaceable.
pub struct KafkaProducer {
    settings: ProducerSettings,
    transaction_timeout: Duration,
    /// Initialised ones; both are there while transactions run.
    instances: [Option<Instance>; 2],
    /// Whose transaction it is.
    turn: usize,
    /// One whose initialising timed out: it goes on with it. Never a second beside it of the same id: its request could
    /// arrive later and fence the newer one.
    initialising: Option<Initialising>,
    /// Whether both are initialised.
    initialised: watch::Sender<bool>,
    /// Of the instances.
    batch_size: usize,
    batches: Batches,
    /// When this transaction's deliveries must be over: beyond `message.timeout.ms`, so that its failures are seen, and
    /// early enough for an abort.
    delivery_deadline: Instant,
    retired: Retired,
}

impl KafkaProducer {
    /// A producer without an instance: `replace` makes the first.
    pub fn new(settings: ProducerSettings) -> Self {
        let timeout_ms = number(&settings.client, "transaction.timeout.ms");
        Self {
            transaction_timeout: Duration::from_millis(
                timeout_ms.unwrap_or(TRANSACTION_TIMEOUT_MS),
            ),
            batches: Batches::new(number(&settings.client, "batch.size").unwrap_or(BATCH_SIZE)),
            settings,
            instances: [None, None],
            turn: 0,
            initialising: None,
            initialised: watch::Sender::new(false),
            batch_size: BATCH_SIZE,
            delivery_deadline: Instant::now(),
            retired: Retired::default(),
        }
    }

    /// Whether it is initialised: true from each successful `replace` to the next one's beginning.
    pub fn initialised(&self) -> watch::Receiver<bool> {
        self.initialised.subscribe()
    }

    /// Puts initialised instances in the place of the old ones, if any. To be called again when it fails.
    fn renew(&mut self) -> Result<(), TxnError> {
        if self.settings.stop.is_stopped() {
            // A thread that was left behind would fence the producer that has come after it.
            return Err(repeat("its worker has ended".to_owned()));
        }
        if *self.initialised.borrow() {
            for old in [0, 1].map(|turn| self.instances[turn].take()) {
                old.into_iter().for_each(|old| self.retire(old));
            }
        }
        if self.instances.iter().all(Option::is_none) && self.initialising.is_none() {
            self.initialised.send_replace(false);
            let limit = (self.settings.batch_limit)(self.batches.doubt_limit());
            let limit = limit.map_err(|error| {
                repeat(format!(
                    "cannot look up the topics that are written to: {error}"
                ))
            })?;
            self.batch_size = self.batches.next(limit);
        }
        for turn in 0..self.instances.len() {
            if self.instances[turn].is_none() {
                self.instances[turn] = Some(self.initialise(turn)?);
                kill_point(KillPoint::Initialised);
            }
        }
        self.initialised.send_replace(true);
        Ok(())
    }

    fn initialise(&mut self, turn: usize) -> Result<Instance, TxnError> {
        let initialising = match self.initialising.take() {
            Some(initialising) => self.unless_lost(initialising, turn)?,
            None => {
                let instance = self.create(turn)?;
                // Asked before it is connected, librdkafka (2.12) looks for the coordinator again after half a second.
                instance.client().fetch_cluster_id(CONNECT_PATIENCE);
                let well = Instant::now();
                Initialising { instance, well }
            }
        };
        let Initialising { instance, well } = initialising;
        match instance.init_transactions(INIT_PATIENCE) {
            Ok(()) => {
                instance.context().arm();
                Ok(instance)
            }
            Err(error) => {
                let error = self.init_error(turn, &error);
                if error.class == TxnClass::Repeat {
                    self.initialising = Some(Initialising { instance, well });
                } else {
                    self.retire(instance);
                }
                Err(error)
            }
        }
    }

    /// Another one in its place if it has lost its brokers: nothing of it is under way then.
    fn unless_lost(
        &mut self,
        Initialising { instance, well }: Initialising,
        turn: usize,
    ) -> Result<Initialising, TxnError> {
        if well.elapsed() < LostBrokers::EVERY {
            return Ok(Initialising { instance, well });
        }
        let found = finds_a_broker(instance.client());
        let another = match found {
            true => None,
            false => Some(self.create(turn)?).filter(|another| finds_a_broker(another.client())),
        };
        let instance = match another {
            None => instance,
            Some(another) => {
                tracing::warn!(
                    "a producer has lost its brokers, which can be reached (librdkafka issue 5301): it is replaced"
                );
                self.retire(instance);
                another
            }
        };
        let well = Instant::now();
        Ok(Initialising { instance, well })
    }

    fn create(&self, turn: usize) -> Result<Instance, TxnError> {
        let mut client = self.settings.client.clone();
        client.set("transactional.id", self.transactional_id(turn));
        client.set("batch.size", self.batch_size.to_string());
        if client.get("message.max.bytes").is_none() {
            client.set("message.max.bytes", NO_LIMIT);
        }
        // Lost connections are told at this level.
        client.set_log_level(RDKafkaLogLevel::Info);
        client
            .create_with_context(Deliveries::new(self.batch_size))
            .map(TopicProducer::new)
            .map_err(|error| TxnError {
                class: TxnClass::Fatal,
                message: format!("cannot create the transactional producer: {error}"),
            })
    }

    /// The one that is set, and for the second instance the same with `.2` at its end, which no other worker's has.
    fn transactional_id(&self, turn: usize) -> String {
        let id = self.settings.client.get("transactional.id");
        let suffix = ["", ".2"][turn];
        format!("{}{suffix}", id.unwrap_or_default())
    }

    fn retire(&mut self, instance: Instance) {
        let context = instance.context();
        if let Some(flaw) = context.doubt() {
            self.batches.refused(flaw, context.batch_size());
        }
        self.retired.take(instance);
    }

    fn init_error(&self, turn: usize, error: &KafkaError) -> TxnError {
        let TxnError { class, message } = txn_error(Call::Init, error);
        TxnError {
            class,
            message: format!(
                "{message} (transactional id {}, brokers {} of ORCH_BOOTSTRAP_SERVERS)",
                self.transactional_id(turn),
                self.settings
                    .client
                    .get("bootstrap.servers")
                    .unwrap_or_default(),
            ),
        }
    }
}

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        self.initialised.send_replace(false);
        let initialising = self.initialising.take().map(|i| i.instance);
        let instances = self.instances.iter_mut().filter_map(Option::take);
        for instance in instances.chain(initialising) {
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
