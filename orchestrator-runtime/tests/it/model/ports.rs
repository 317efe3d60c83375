//! A worker's two ports over the model broker: the model session, and a committer that is the real transactor over the
//! model producer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use orchestrator_runtime::core::Topic;
use orchestrator_runtime::core::ports::{
    Committer, Guarantee, Report, SessionEvent, SessionFailure, SliceFate, TopicFacts, Unit,
    UnitSlice,
};
use orchestrator_runtime::kafka::membership::Membership;
use orchestrator_runtime::kafka::transactor::{Parts, Transactor};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::producer::ModelProducer;
use super::session::ModelSession;

pub(crate) type Shared = Arc<Mutex<Broker>>;
pub(crate) type Group = Arc<Membership<u32>>;
/// Events that a fault in the middle of a transaction leaves for the session.
pub(crate) type Mailbox = Arc<Mutex<VecDeque<SessionEvent>>>;

pub(crate) fn lock(broker: &Shared) -> MutexGuard<'_, Broker> {
    broker.lock().unwrap()
}

/// The ports of one worker's life; `done` is cancelled once everything is passed.
pub(crate) fn open(broker: &Shared, done: CancellationToken) -> (ModelSession, ModelCommitter) {
    let (group, mailbox) = (Group::default(), Mailbox::default());
    let session = ModelSession::new(broker.clone(), group.clone(), mailbox.clone(), done);
    let committer = ModelCommitter::new(broker.clone(), group, mailbox);
    (session, committer)
}

/// Takes what is added for a little while, then commits at once, and reports a little later.
pub(crate) struct ModelCommitter {
    transactor: Transactor<ModelProducer>,
    broker: Shared,
    open: Option<Open>,
    report: Option<(Instant, Report)>,
}

/// A unit that takes more still.
struct Open {
    unit: Unit,
    added: Vec<Unit>,
    until: Instant,
}

/// Parts that were added; the last ones may come too late for the transaction.
struct Added {
    parts: VecDeque<Unit>,
    too_late: usize,
}

impl Parts for Added {
    fn next(&mut self) -> Option<Unit> {
        let left = self.parts.len() > self.too_late;
        left.then(|| self.parts.pop_front()).flatten()
    }

    fn close(&mut self) -> Unit {
        Unit {
            slices: self.parts.drain(..).flat_map(|part| part.slices).collect(),
        }
    }
}

impl ModelCommitter {
    fn new(broker: Shared, group: Group, mailbox: Mailbox) -> Self {
        let producer = ModelProducer::new(broker.clone(), group.clone(), mailbox);
        Self {
            transactor: Transactor::new(producer, group, ()),
            broker,
            open: None,
            report: None,
        }
    }

    fn commit(
        &mut self,
        unit: &mut Unit,
        added: Vec<Unit>,
    ) -> (Vec<SliceFate>, Option<SessionFailure>) {
        let mut broker = lock(&self.broker);
        if broker.strikes(40, "the transaction thread ends") {
            let ended = SessionFailure::Broken("no more".to_owned());
            unit.slices.extend(slices_of(added));
            return (vec![SliceFate::Stripped; unit.slices.len()], Some(ended));
        }
        // Nothing was committed, and this is said in other ways than the transactor would.
        let fate: fn(i64) -> SliceFate = if broker.strikes(30, "everything is to be read again") {
            |committed| SliceFate::Rewind { to: committed }
        } else if broker.refuses_offsets > 0 {
            broker.refuses_offsets -= 1;
            let slices =
                unit.slices.len() + added.iter().map(|part| part.slices.len()).sum::<usize>();
            broker.slices_refused.push(slices);
            |_| SliceFate::Stuck {
                error: "not these".to_owned(),
            }
        } else if broker.strikes(30, "offsets cannot be committed") {
            |_| SliceFate::Stuck {
                error: "not now".to_owned(),
            }
        } else {
            let too_late = broker.random.usize(0..=added.len());
            drop(broker);
            let parts = added.into();
            let mut added = Added { parts, too_late };
            return self.transactor.commit(unit, &mut added);
        };
        unit.slices.extend(slices_of(added));
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
        let under_way = self.report.is_some() || self.open.is_some();
        assert!(!under_way, "a unit is under way");
        let open_for = Duration::from_millis(lock(&self.broker).random.u64(0..10));
        self.open = Some(Open {
            unit,
            added: Vec::new(),
            until: Instant::now() + open_for,
        });
    }

    fn extend(&mut self, more: &mut Unit) -> bool {
        match &mut self.open {
            Some(open) if Instant::now() < open.until => {
                open.added.push(std::mem::take(more));
                true
            }
            _ => false,
        }
    }

    fn queued(&mut self, _queued: bool) {}

    fn seal(&mut self) {
        if let Some(open) = &mut self.open {
            open.until = open.until.min(Instant::now());
        }
    }

    async fn report(&mut self) -> Report {
        if let Some(until) = self.open.as_ref().map(|open| open.until) {
            tokio::time::sleep_until(until).await;
        }
        if let Some(Open {
            mut unit, added, ..
        }) = self.open.take()
        {
            let (fates, ended) = self.commit(&mut unit, added);
            let takes = Duration::from_millis(lock(&self.broker).random.u64(1..20));
            self.report = Some((Instant::now() + takes, Report { unit, fates, ended }));
        }
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

fn slices_of(parts: Vec<Unit>) -> impl Iterator<Item = UnitSlice> {
    parts.into_iter().flat_map(|part| part.slices)
}
