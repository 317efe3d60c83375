//! The committer on Kafka: [`Committer`] over the transaction thread, which owns transactor and producer. Held by the
//! worker. It must never block the worker's task, and never lose a unit: what is submitted comes back in a report,
//! whatever becomes of the thread.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc as units;
use std::thread;
use std::time::Duration;

use orchestrator_core::Topic;
use orchestrator_core::ports::{
    Committer, Guarantee, Report, SessionFailure, SliceFate, TopicFacts, Unit,
};
use rdkafka::ClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::membership::Membership;
use super::producer::{BatchLimit, CommittedLookup, KafkaProducer, ProducerSettings};
use super::stop::StopSignal;
use super::topics::TopicCatalog;
use super::transactor::{Parts, TransactionalProducer, Transactor, TransactorObserver};
use inbox::Inbox;

mod inbox;

/// How long the transaction thread may take to end; then it is left behind.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What a committer works with.
pub struct CommitterSettings {
    /// The settings of the producer, with its `transactional.id`.
    pub producer: ClientConfig,
    /// The settings of the client that looks up topics.
    pub admin: ClientConfig,
    /// Where outputs go that name no topic.
    pub target: Option<Topic>,
    /// All topics that are known to be written to: the producer's batches fit the smallest limit of theirs.
    pub written: BTreeSet<Topic>,
    /// Asks for the group's committed offsets.
    pub committed: CommittedLookup,
    /// Asked once when another producer has the `transactional.id`.
    pub fenced: FenceJudge,
}

/// Says what it means that another producer has the `transactional.id`: that a twin has taken over, or that there is
/// none (any more) and a new session may do better. May take seconds.
pub type FenceJudge = Box<dyn Fn(String) -> SessionFailure + Send>;

/// Why a committer cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum CommitterError {
    /// librdkafka does not take the settings.
    #[error("cannot create the client that looks up topics: {0}")]
    Client(#[from] KafkaError),
    /// There is no thread to be had.
    #[error("cannot start the transaction thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A sink that commits units of work in Kafka transactions.
#[derive(Debug)]
pub struct KafkaCommitter {
    units: units::Sender<Unit>,
    inbox: Inbox,
    reports: mpsc::UnboundedReceiver<Report>,
    /// A unit that the thread no longer took.
    returned: Option<Unit>,
    topics: TopicCatalog,
    ready: watch::Receiver<bool>,
    ended: oneshot::Receiver<()>,
    stop: StopOnDrop,
}

/// Without `close` (the worker panicked, its future was dropped) the thread must end just so.
#[derive(Debug)]
struct StopOnDrop(StopSignal);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl KafkaCommitter {
    /// Starts the transaction thread, which initialises its producer at once and tries for as long as it takes. To be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Settings that librdkafka does not take, or no thread. A broker that does not answer is no error: see
    /// [`ready`](Self::ready).
    pub fn start<O: TransactorObserver + 'static>(
        settings: CommitterSettings,
        membership: Arc<Membership<ConsumerGroupMetadata>>,
        observer: O,
    ) -> Result<Self, CommitterError> {
        let topics = TopicCatalog::new(&settings.admin)?;
        let stop = StopSignal::default();
        let producer = KafkaProducer::new(ProducerSettings {
            client: settings.producer,
            target: settings.target,
            committed: settings.committed,
            batch_limit: batch_limit(topics.clone(), settings.written),
            stop: stop.clone(),
        });
        let ready = producer.initialised();
        let transactor = Transactor::new(producer, membership.clone(), observer);
        let fenced = settings.fenced;
        let (submit, units) = units::channel();
        let inbox = Inbox::default();
        let parts = inbox.clone();
        let (report, reports) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        thread::Builder::new()
            .name("orch-transactions".to_owned())
            .spawn(move || {
                run(transactor, &membership, &fenced, &units, parts, &report);
                // Gone if nobody waits for the end.
                end.send(()).ok();
            })?;
        Ok(Self {
            units: submit,
            inbox,
            reports,
            returned: None,
            topics,
            ready,
            ended,
            stop: StopOnDrop(stop),
        })
    }

    /// Whether the producer is initialised, as it changes: an earlier process's open transaction has ended by then, so
    /// committed offsets can be trusted. False again while a producer is being replaced.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// The topics that are written to.
    pub fn topics(&self) -> &TopicCatalog {
        &self.topics
    }
}

impl Committer for KafkaCommitter {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn submit(&mut self, unit: Unit) {
        self.inbox.open();
        if let Err(units::SendError(unit)) = self.units.send(unit) {
            self.returned = Some(unit);
        }
    }

    fn extend(&mut self, more: &mut Unit) -> bool {
        self.inbox.put(more)
    }

    fn queued(&mut self, queued: bool) {
        self.inbox.queued(queued);
    }

    fn seal(&mut self) {
        self.inbox.seal();
    }

    async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            // Cannot be: the thread outlives its channel. Should it be all the same, nothing is taken for committed.
            None => report_of(
                self.returned.take().unwrap_or_default(),
                self.inbox.close(),
                SessionFailure::Broken("the transaction thread is gone".to_owned()),
            ),
        }
    }

    async fn topic_facts(&mut self, topic: &Topic) -> Result<TopicFacts, String> {
        self.topics.facts(topic).await
    }

    async fn close(self) {
        let Self {
            units,
            topics,
            ended,
            stop,
            ..
        } = self;
        // The catalog goes first: its client is closed on the thread, which holds it too.
        drop((topics, units, stop));
        if tokio::time::timeout(CLOSE_PATIENCE, ended).await.is_err() {
            tracing::warn!(
                "the transaction thread does not end within {CLOSE_PATIENCE:?} and is left behind"
            );
        }
    }
}

/// The transaction thread: one unit after the other, until nobody can submit any more.
fn run<P: TransactionalProducer, O: TransactorObserver>(
    mut transactor: Transactor<P, O>,
    membership: &Membership<P::Metadata>,
    fenced: &FenceJudge,
    units: &units::Receiver<Unit>,
    mut parts: Inbox,
    reports: &mpsc::UnboundedSender<Report>,
) {
    let mut ended = guarded(|| transactor.prepare())
        .and_then(|prepared| prepared)
        .err();
    while let Ok(mut unit) = units.recv() {
        let report = match &ended {
            Some(failure) => report_of(unit, parts.close(), failure.clone()),
            None => match guarded(|| transactor.commit(&mut unit, &mut parts)) {
                Ok((fates, ended)) => {
                    let ended = ended.map(|failure| match failure {
                        SessionFailure::Fenced(error) => fenced(error),
                        broken @ SessionFailure::Broken(_) => broken,
                    });
                    Report { unit, fates, ended }
                }
                Err(panicked) => {
                    // The transaction is open, perhaps; it is never committed.
                    membership.leave();
                    report_of(unit, parts.close(), panicked)
                }
            },
        };
        ended.clone_from(&report.ended);
        if reports.send(report).is_err() {
            break;
        }
    }
}

/// A unit of which nothing is known to be committed.
fn report_of(mut unit: Unit, added: Unit, failure: SessionFailure) -> Report {
    unit.slices.extend(added.slices);
    Report {
        fates: vec![SliceFate::Stripped; unit.slices.len()],
        unit,
        ended: Some(failure),
    }
}

/// Runs `work`; a panic becomes a failure, after which the transactor is not to be used again.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, SessionFailure> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        SessionFailure::Broken(format!("the transaction thread panicked: {text}"))
    })
}

/// Asks the catalog from the transaction thread.
fn batch_limit(topics: TopicCatalog, written: BTreeSet<Topic>) -> BatchLimit {
    let runtime = Handle::current();
    let written: Vec<_> = written.into_iter().collect();
    Box::new(move |afresh| runtime.block_on(topics.smallest_limit(&written, afresh)))
}

impl fmt::Debug for CommitterSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The clients' settings hold secrets.
        f.debug_struct("CommitterSettings")
            .field("target", &self.target)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
