//! Records on their way to the transformer that the ledger hears of first (OUTBOX, RELIABLE). While it notes some the
//! worker goes on with others; whatever has arrived meanwhile is noted next, together. Part of the worker.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use orchestrator_core::ports::{Committer, Epoch, Session};
use orchestrator_core::{Backoff, HoldReason, SourcePartition, Taken, TrackerError, Transformer};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Worker;
use super::settings::WorkerObserver;

/// So many records are noted together, give or take one slice: the first of them need not wait for many.
const MAX_RECORDS: usize = 4_000;

/// The back-off after the ledger has refused.
const WAIT: Backoff = Backoff {
    base: Duration::from_secs(1),
    max: Duration::from_secs(10),
};

/// What is said of a tracker that panicked.
pub(super) const BROKE_DOWN: &str = "the failure tracker broke down (a panic)";

/// Where records belong that are noted.
#[derive(Debug)]
struct Place {
    partition: SourcePartition,
    epoch: Epoch,
    /// The lane's life.
    life: u32,
    /// Where the piece begins.
    from: i64,
}

type Noted = (Vec<Taken>, Result<(), TrackerError>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Noting {
    waiting: VecDeque<(Place, Taken)>,
    under_way: Option<(Vec<Place>, AbortOnDropHandle<Noted>)>,
    /// When the ledger, which has refused, is asked again.
    again: Option<Instant>,
    refusals: u32,
}

impl Noting {
    /// Puts records, which are in their lane already, in line.
    pub(super) fn add(
        &mut self,
        partition: SourcePartition,
        (epoch, life): (Epoch, u32),
        from: i64,
        taken: Taken,
    ) {
        let place = Place {
            partition,
            epoch,
            life,
            from,
        };
        self.waiting.push_back((place, taken));
    }

    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// When it has to be looked after next.
    pub(super) fn due(&self) -> Option<Instant> {
        let stands = !self.waiting.is_empty() && !self.is_busy();
        self.again.filter(|_| stands)
    }

    /// Waits until what is under way is noted, or could not be; `None` if the ledger broke down over it.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub(super) async fn done(&mut self) -> Option<Noted> {
        match &mut self.under_way {
            Some((_, task)) => task.await.ok(),
            None => std::future::pending().await,
        }
    }
}

impl<S, C, T, O> Worker<S, C, T, O>
where
    S: Session,
    C: Committer,
    T: Transformer,
    O: WorkerObserver,
{
    /// Has the ledger note what is in line.
    pub(super) fn start_noting(&mut self, draining: bool) {
        let noting = &mut self.noting;
        let wait = noting
            .again
            .is_some_and(|again| !draining && Instant::now() < again);
        if noting.is_busy() || wait {
            return;
        }
        let (mut places, mut taken) = (Vec::new(), Vec::new());
        let mut records = 0;
        while records < MAX_RECORDS
            && let Some((place, some)) = noting.waiting.pop_front()
        {
            let lane = self.lanes.get(&place.partition);
            if lane.is_some_and(|lane| (lane.epoch(), lane.life()) == (place.epoch, place.life)) {
                records += some.records.len();
                places.push(place);
                taken.push(some);
            }
        }
        if places.is_empty() {
            return;
        }
        let tracker = self.tracker.clone();
        let task = tokio::spawn(async move {
            let noted = tracker.received(&taken).await;
            (taken, noted)
        });
        noting.under_way = Some((places, AbortOnDropHandle::new(task)));
    }

    /// What was under way is noted, and goes to the transformer; or it could not be, and its partitions are held.
    pub(super) fn noted(&mut self, noted: Option<Noted>, draining: bool) {
        let Some((places, _)) = self.noting.under_way.take() else {
            return;
        };
        let (taken, error) = match noted {
            Some((taken, Ok(()))) => {
                (self.noting.again, self.noting.refusals) = (None, 0);
                for (place, taken) in places.into_iter().zip(taken) {
                    self.start(place, taken);
                }
                return;
            }
            Some((taken, Err(error))) => (Some(taken), error.message),
            None => (None, BROKE_DOWN.to_owned()),
        };
        let partitions: BTreeSet<_> = places.iter().map(|place| place.partition.clone()).collect();
        match taken.filter(|_| !draining) {
            Some(taken) => {
                for one in places.into_iter().zip(taken).rev() {
                    self.noting.waiting.push_front(one);
                }
            }
            // They are read again: later, or by whoever comes next.
            None => {
                for partition in &partitions {
                    if let Some(lane) = self.lanes.get_mut(partition) {
                        lane.rewind(lane.given_out());
                    }
                }
            }
        }
        self.noting.refusals += 1;
        let wait = WAIT.bound(self.noting.refusals);
        self.noting.again = Some(Instant::now() + wait);
        self.stop_lanes(&partitions, HoldReason::Database, &error);
    }

    /// Gives records that were noted to the transformer.
    fn start(&mut self, place: Place, taken: Taken) {
        let life = (place.epoch, place.life);
        let lane = self.lanes.get(&place.partition);
        if lane.is_some_and(|lane| (lane.epoch(), lane.life()) == life) {
            self.stage
                .start(place.partition, life, place.from, taken.records, None);
        }
    }
}
