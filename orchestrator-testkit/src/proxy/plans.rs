//! What is to be done to which requests, and how often it was done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A kind of request, by its key in Kafka's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
#[allow(missing_docs)]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    SyncGroup = 14,
    ApiVersions = 18,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
    ConsumerGroupHeartbeat = 68,
}

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut; the broker never gets the request.
    CutRequest,
    /// The broker gets the request; the connection is cut instead of its answer.
    CutAnswer,
    /// The broker never gets the request, and the connection stays: the client waits in vain.
    LoseRequest,
    /// The broker gets the request, and the connection stays: the client waits in vain.
    LoseAnswer,
    /// The broker gets the request so much later, and all that follows on that connection.
    HoldRequest(Duration),
    /// The client gets the answer so much later, and all that follows on that connection.
    HoldAnswer(Duration),
    /// The connection is cut, and the broker gets the request so much later all the same: perhaps after its repetition.
    LateRequest(Duration),
    /// The answer to a Metadata request (version 9 or later) names no broker, as when the controller has fenced them all.
    NameNoBroker,
}

/// What is to be done to requests of one kind: to each of them, until it is told otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    api: Api,
    fault: Fault,
    every: u64,
    /// So many of them count as seen before the first one comes.
    seen: u64,
    times: u64,
}

impl Plan {
    /// A plan.
    pub fn new(api: Api, fault: Fault) -> Self {
        Self {
            api,
            fault,
            every: 1,
            seen: 0,
            times: u64::MAX,
        }
    }

    /// Only to every nth of them.
    #[must_use]
    pub fn every(mut self, every: u64) -> Self {
        self.every = every.max(1);
        self
    }

    /// Only to the next one of them, and every nth from there.
    #[must_use]
    pub fn next_and_every(self, every: u64) -> Self {
        let plan = self.every(every);
        Self {
            seen: plan.every - 1,
            ..plan
        }
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }
}

/// How often a plan was carried out.
#[derive(Debug, Clone, Default)]
pub struct Bites(Arc<AtomicU64>);

impl Bites {
    /// How often by now: counted when it was done, not when it was decided.
    pub fn bitten(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A fault that was decided on, and not done yet. Dropped undone (its connection may end before the answer comes) it may be
/// decided on again.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) fault: Fault,
    bites: Bites,
    /// As many as its plan has decided on and not done.
    open: Arc<()>,
}

impl Decided {
    pub(super) fn done(self) {
        self.bites.0.fetch_add(1, Ordering::Relaxed);
        // Not before it is counted: it must be seen as open or as done.
        drop(self.open);
    }
}

/// The plans of a proxy.
#[derive(Debug, Default)]
pub(super) struct Plans(Mutex<Vec<Active>>);

#[derive(Debug)]
struct Active {
    plan: Plan,
    seen: u64,
    bites: Bites,
    open: Arc<()>,
}

impl Active {
    /// Whether all that it may do is done or decided.
    fn is_exhausted(&self) -> bool {
        let open = Arc::strong_count(&self.open) as u64 - 1;
        open + self.bites.bitten() >= self.plan.times
    }
}

impl Plans {
    pub(super) fn add(&self, plan: Plan) -> Bites {
        let bites = Bites::default();
        self.lock().push(Active {
            plan,
            seen: plan.seen,
            bites: bites.clone(),
            open: Arc::new(()),
        });
        bites
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// What is to be done to this request.
    pub(super) fn decide(&self, api_key: i16) -> Option<Decided> {
        let mut decided = None;
        for active in self.lock().iter_mut() {
            if active.plan.api as i16 != api_key || active.is_exhausted() {
                continue;
            }
            active.seen += 1;
            if active.seen % active.plan.every == 0 && decided.is_none() {
                decided = Some(Decided {
                    fault: active.plan.fault,
                    bites: active.bites.clone(),
                    open: Arc::clone(&active.open),
                });
            }
        }
        decided
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_third_of_its_kind_twice() {
        let plans = Plans::default();
        let bites = plans.add(Plan::new(Api::EndTxn, Fault::CutAnswer).every(3).times(2));
        let decided: Vec<_> = (0..12)
            .map(|_| {
                plans
                    .decide(Api::EndTxn as i16)
                    .map(Decided::done)
                    .is_some()
            })
            .collect();
        let expected: Vec<_> = (1..=12).map(|n| n == 3 || n == 6).collect();
        assert_eq!(decided, expected);
        assert_eq!(bites.bitten(), 2);
        assert!(plans.decide(Api::Produce as i16).is_none());
    }

    #[test]
    fn the_next_one_and_every_second_from_there() {
        let plans = Plans::default();
        plans.add(Plan::new(Api::EndTxn, Fault::CutAnswer).next_and_every(2));
        let decided = [(); 5].map(|()| plans.decide(Api::EndTxn as i16).is_some());
        assert_eq!(decided, [true, false, true, false, true]);
    }

    #[test]
    fn what_was_decided_and_not_done_is_decided_again() {
        let plans = Plans::default();
        let bites = plans.add(Plan::new(Api::EndTxn, Fault::CutAnswer).times(1));
        let decide = || plans.decide(Api::EndTxn as i16);
        let first = decide().unwrap();
        assert!(decide().is_none());
        // Its connection has ended before the answer came.
        drop(first);
        assert_eq!(bites.bitten(), 0);
        decide().unwrap().done();
        assert_eq!(bites.bitten(), 1);
        assert!(decide().is_none());
    }

    #[test]
    fn a_request_is_the_oldest_plans() {
        let plans = Plans::default();
        plans.add(Plan::new(Api::Produce, Fault::CutRequest).times(1));
        plans.add(Plan::new(Api::Produce, Fault::LoseAnswer));
        let decided = [(); 2].map(|()| plans.decide(0));
        let faults = decided.each_ref().map(|it| it.as_ref().map(|it| it.fault));
        assert_eq!(faults, [Some(Fault::CutRequest), Some(Fault::LoseAnswer)]);
        plans.clear();
        assert!(plans.decide(0).is_none());
    }
}
