//! Opens the two ports of one worker on Kafka, from the configuration. Called by the orchestrator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_core::Topic;
use orchestrator_core::ports::SessionFailure;

use super::client_config::{self, Redacted, Timings};
use super::committer::{CommitterSettings, FenceJudge, KafkaCommitter};
use super::membership::Membership;
use super::place::Visitor;
use super::session::{KafkaSession, Limiter, SessionHandle, SessionSettings};
use super::transactor::TransactorObserver;
use crate::config::Config;
use crate::health::Health;
use crate::identity::Identity;

/// How long the group may take to be left.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// When it is first said that no broker answers, and how often after that.
pub(crate) const SAY_FIRST: Duration = Duration::from_secs(1);
pub(crate) const SAY_EVERY: Duration = Duration::from_secs(5);

/// The ports of one worker.
pub(crate) struct KafkaPorts {
    pub(crate) session: KafkaSession,
    pub(crate) committer: KafkaCommitter,
    pub(crate) handle: SessionHandle,
}

impl KafkaPorts {
    /// Opens them and waits until the producer is initialised, for as long as that takes.
    ///
    /// Cancel safety: what was opened is closed.
    pub(crate) async fn open<O: TransactorObserver + 'static>(
        config: &Config,
        identity: &Identity,
        number: usize,
        limiter: Option<Arc<Limiter>>,
        observer: O,
        health: &Health,
    ) -> Result<Self, SessionFailure> {
        let broken = |error: String| SessionFailure::Broken(error);
        let membership = Arc::new(Membership::default());
        let timings = Timings::of(config);
        let settings = SessionSettings {
            topics: config.kafka.source_topics.clone(),
            start_from: config.kafka.start_from,
            on_offset_lost: config.kafka.on_offset_lost,
            batch_max_records: config.batch.max_records,
            batch_max_bytes: config.batch.max_bytes,
            revoke_patience: timings.unit_deadline,
            close_patience: CLOSE_PATIENCE,
        };
        let consumer = client_config::consumer(config, identity, number);
        tracing::debug!(worker = number, settings = ?Redacted(&consumer), "the consumer's settings");
        let session = KafkaSession::start(&consumer, settings, membership.clone(), limiter)
            .map_err(|error| broken(error.to_string()))?;
        let handle = session.handle();
        let committed = {
            let handle = handle.clone();
            let patience = timings.socket_timeout;
            Box::new(move |partitions: &BTreeSet<_>| {
                handle
                    .committed(partitions, patience)
                    .map_err(|error| error.to_string())
            })
        };
        let mut written: BTreeSet<Topic> =
            config.kafka.target_topic.iter().map(Topic::new).collect();
        let sources = config.kafka.source_topics.iter();
        written.extend(sources.filter_map(|source| config.failure.dlq_for(source)));
        let transactional_id = identity.transactional_id(number);
        let producer = client_config::producer(config, &transactional_id);
        tracing::debug!(worker = number, settings = ?Redacted(&producer), "the producer's settings");
        let settings = CommitterSettings {
            producer,
            admin: client_config::admin(config),
            target: config.kafka.target_topic.as_deref().map(Topic::from),
            written,
            committed,
            fenced: fenced(identity, handle.clone()),
        };
        let committer = KafkaCommitter::start(settings, membership, observer)
            .map_err(|error| broken(error.to_string()))?;
        let mut ready = committer.ready();
        let mut patience = SAY_FIRST;
        while !*ready.borrow_and_update() {
            match tokio::time::timeout(patience, ready.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(broken("the transaction thread has ended".to_owned())),
                Err(_) => {
                    patience = SAY_EVERY;
                    let error = handle
                        .status()
                        .problem()
                        .unwrap_or_else(|| "the producer is not initialised yet".to_owned());
                    broker_is_away(config, health, error);
                }
            }
        }
        health.broker_reachable(Instant::now());
        session.join();
        Ok(Self {
            session,
            committer,
            handle,
        })
    }
}

/// Who finds out whether it was a twin that has fenced a worker, a process of the same name that lives; if it may have been
/// anything else.
pub(crate) fn visitor(config: &Config, identity: &Identity, number: usize) -> Option<Visitor> {
    let visitor = Visitor::to(&client_config::consumer(config, identity, number))?;
    visitor
        .inspect_err(|error| tracing::warn!(%error, "who has our place cannot be found out"))
        .ok()
}

/// What a fence means: with a name that was found, always that another one has to be found.
fn fenced(identity: &Identity, handle: SessionHandle) -> FenceJudge {
    if identity.explicit {
        Box::new(move |error| handle.fenced(error))
    } else {
        Box::new(SessionFailure::Fenced)
    }
}

/// Says that no broker answers, in the log and in health.
pub(crate) fn broker_is_away(config: &Config, health: &Health, error: String) {
    let brokers = &config.kafka.bootstrap_servers;
    tracing::warn!(
        error,
        "waiting for the broker at {brokers} ({}BOOTSTRAP_SERVERS)",
        config.prefix
    );
    health.broker_unreachable(error, Instant::now());
}
