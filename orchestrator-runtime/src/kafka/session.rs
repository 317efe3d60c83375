//! The Kafka session: what the worker holds of a consumer that lives on its own thread. Created by the orchestrator,
//! one a worker; it hands records over and passes requests on, and never blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota};
use orchestrator_core::SourcePartition;
use orchestrator_core::ports::{Epoch, Intake, Session, SessionFailure};
use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use tokio::sync::oneshot;

use super::asker::{Ask, Asker};
use super::ffi;
use super::gather::{Gather, Limits, Resume};
use super::lost_brokers::LostBrokers;
use super::member::{Blueprint, Current};
use super::offsets::{StartRules, committed};
use super::place::{self, Name, Watch};
use super::poll::{Command, Polling};
use super::poll_thread::PollThread;
use super::rebalance::{Context, Pending};
use super::stop::StopSignal;
use crate::config::{OnOffsetLost, StartFrom};

pub use super::rebalance::GroupMembership;
pub use super::status::SessionStatus;

/// The rate limit that all workers of a process share.
pub type Limiter = DefaultDirectRateLimiter;

/// A limiter of so many records per second, with bursts of a tenth of a second's worth.
pub fn limiter(per_second: Option<NonZeroU32>) -> Option<Arc<Limiter>> {
    let per_second = per_second?;
    let burst = NonZeroU32::new(per_second.get() / 10).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::per_second(per_second).allow_burst(burst);
    Some(Arc::new(Limiter::direct(quota)))
}

/// What a session is to do.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The source topics.
    pub topics: Vec<String>,
    /// Where a group without offsets starts.
    pub start_from: StartFrom,
    /// What happens when the next offset is gone from the topic.
    pub on_offset_lost: OnOffsetLost,
    /// How many records are gathered at most.
    pub batch_max_records: usize,
    /// How many bytes are gathered at most (and one record).
    pub batch_max_bytes: usize,
    /// How long a revocation waits for the transaction that uses its partitions.
    pub revoke_patience: Duration,
    /// How long [`Session::close`] waits for the group to be left.
    pub close_patience: Duration,
}

/// Why a session could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// librdkafka refuses the settings.
    #[error("the Kafka consumer cannot be created: {0}; check the ORCH_KAFKA_ settings")]
    Consumer(#[from] KafkaError),
    /// No thread could be started.
    #[error("the Kafka consumer's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A session over a Kafka consumer group.
pub struct KafkaSession {
    gather: Arc<Gather>,
    commands: Sender<Command>,
    ended: Option<oneshot::Receiver<()>>,
    /// Nobody waits for the group to be left any more.
    abandoned: StopSignal,
    close_patience: Duration,
    handle: SessionHandle,
}

impl KafkaSession {
    /// Creates the consumer and starts its thread. Needs no broker: what cannot be reached is tried on, and
    /// [`SessionStatus`] says so. Nothing is read before [`join`](Self::join).
    pub fn start(
        config: &ClientConfig,
        settings: SessionSettings,
        membership: Arc<GroupMembership>,
        limiter: Option<Arc<Limiter>>,
    ) -> Result<Self, SessionError> {
        let gather = Arc::new(Gather::new(Limits {
            records: settings.batch_max_records.max(1),
            bytes: settings.batch_max_bytes.max(1),
        }));
        let status = Arc::new(SessionStatus::default());
        let rules = StartRules {
            start_from: settings.start_from,
            on_offset_lost: settings.on_offset_lost,
        };
        let pending = Arc::new(Mutex::new(Pending::default()));
        let (asks, questions) = channel();
        let context = Context {
            gather: Arc::clone(&gather),
            membership,
            status: Arc::clone(&status),
            rules,
            revoke_patience: settings.revoke_patience,
            pending: Arc::clone(&pending),
            asks: asks.clone(),
            records: Arc::default(),
        };
        let current = Current::default();
        let blueprint = Blueprint {
            config: config.clone(),
            topics: settings.topics.clone(),
            context,
            current: current.clone(),
        };
        let member = blueprint.create()?;

        let (commands, requests) = channel();
        let (answers, answered) = (commands.clone(), Arc::clone(&gather));
        let (asked, lost) = (current.clone(), commands.clone());
        let asker = Asker {
            consumer: Box::new(move || asked.get()),
            topics: settings.topics.clone(),
            rules,
            status: Arc::clone(&status),
            is_wanted: Box::new(move |partition, attempt| {
                Context::is_wanted(&pending, partition, attempt)
            }),
            answer: Box::new(move |partition, attempt, start| {
                // Nobody left to be told: the session has ended.
                answers
                    .send(Command::Started(partition, attempt, start))
                    .unwrap_or_default();
                answered.wake_poller();
            }),
            watch: Watch::over(config),
            brokers: LostBrokers::of(config),
            failed: Box::new(move |failure| {
                lost.send(Command::Fail(failure)).unwrap_or_default();
            }),
        };
        asker.spawn(questions)?;
        // Says at once, and not only after a while, if no broker or no topic is there.
        asks.send(Ask::Probe).unwrap_or_default();

        let abandoned = StopSignal::default();
        let poll_thread = PollThread {
            polling: Polling {
                commands: requests,
                limiter,
                topics: settings.topics,
                consumer_protocol: place::is_consumer_protocol(config),
                name: Name::of(config),
            },
            blueprint,
            abandoned: abandoned.clone(),
        };
        let (end, ended) = oneshot::channel();
        thread::Builder::new()
            .name("orch-poll".to_owned())
            .spawn(move || {
                poll_thread.run(member);
                drop(end);
            })?;
        Ok(Self {
            handle: SessionHandle {
                gather: Arc::clone(&gather),
                current,
                status,
                name: Name::of(config),
            },
            gather,
            commands,
            ended: Some(ended),
            abandoned,
            close_patience: settings.close_patience,
        })
    }

    /// Joins the group, once: to be called when the producer is initialised. Of two processes of one name the one that
    /// is second to initialise its producer is so to join, too: otherwise each of them could be fenced by the other.
    pub fn join(&self) {
        self.command(Command::Join);
    }

    /// What others may know of this session.
    pub fn handle(&self) -> SessionHandle {
        self.handle.clone()
    }

    fn command(&self, command: Command) {
        // A poll thread that has ended has left the group; there is nothing to do any more.
        self.commands.send(command).unwrap_or_default();
        self.gather.wake_poller();
    }
}

impl Session for KafkaSession {
    async fn next(&mut self, want_records: bool) -> Intake {
        loop {
            if let Some(intake) = self.gather.take(want_records) {
                return intake;
            }
            self.gather.arrived.notified().await;
        }
    }

    fn pause(&mut self, partition: &SourcePartition, epoch: Epoch) {
        if self.gather.lock().pause(partition, epoch) {
            self.command(Command::Pause(partition.clone(), epoch));
        }
    }

    fn resume(&mut self, partition: &SourcePartition, epoch: Epoch, at: i64) {
        let resume: Option<Resume> = self.gather.lock().resume(partition, epoch, at);
        if let Some(resume) = resume {
            self.command(Command::Resume(partition.clone(), epoch, at, resume));
        }
    }

    async fn close(mut self) {
        self.command(Command::Leave);
        if let Some(ended) = self.ended.take()
            && tokio::time::timeout(self.close_patience, ended)
                .await
                .is_err()
        {
            self.abandoned.stop();
            tracing::warn!(
                "the consumer group could not be left in time; its partitions wait for the session time-out"
            );
        }
    }
}

impl Drop for KafkaSession {
    fn drop(&mut self) {
        self.abandoned.stop();
        self.command(Command::Leave);
    }
}

impl fmt::Debug for KafkaSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSession")
            .field("status", &self.handle.status)
            .finish_non_exhaustive()
    }
}

/// What others may know of a session, also after it has ended.
#[derive(Clone)]
pub struct SessionHandle {
    gather: Arc<Gather>,
    current: Current,
    status: Arc<SessionStatus>,
    name: Option<Name>,
}

impl SessionHandle {
    /// How the session fares.
    pub fn status(&self) -> &SessionStatus {
        &self.status
    }

    /// For each partition that is read, how many offsets lie between what the worker took and the end, as of the
    /// last answer of the broker. 0 at the end, commit markers notwithstanding. Asks nobody.
    pub fn lags(&self) -> Vec<(SourcePartition, i64)> {
        let Some(consumer) = self.current.get() else {
            return Vec::new();
        };
        let standings = self.gather.lock().standings();
        let lag = |(partition, taken_to): (SourcePartition, i64)| {
            let (topic, number) = (&*partition.topic, partition.partition);
            let (_, high) = ffi::cached_watermarks(consumer.client(), topic, number)?;
            Some((partition, (high - taken_to).max(0)))
        };
        standings.into_iter().filter_map(lag).collect()
    }

    /// The group's committed offsets, stable ones only: waits while a transaction that could change them is open, but
    /// not beyond `patience`. Blocks; not for the poll thread or an async task.
    pub fn committed(
        &self,
        partitions: &BTreeSet<SourcePartition>,
        patience: Duration,
    ) -> Result<BTreeMap<SourcePartition, Option<i64>>, KafkaError> {
        let consumer = self.current.get().ok_or(KafkaError::Canceled)?;
        let committed = committed(&consumer, partitions, patience)?;
        let offsets = committed.into_iter();
        Ok(offsets
            .map(|(partition, committed)| (partition, committed.map(|(offset, _)| offset)))
            .collect())
    }

    /// What it means that the producer beside this session was fenced. Blocks for some seconds; not for the poll thread
    /// or an async task.
    pub fn fenced(&self, error: String) -> SessionFailure {
        match (&self.name, self.current.get()) {
            (Some(name), Some(consumer)) => name.fenced(&consumer, error),
            _ => SessionFailure::Fenced(error),
        }
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
