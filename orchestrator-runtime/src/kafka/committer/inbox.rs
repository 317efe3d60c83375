//! What is added to a unit while its transaction is open: filled by the worker, emptied by the transaction thread. Part
//! of the committer. What was accepted is always handed out, by `next` or by `close`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orchestrator_core::ports::Unit;

use super::super::transactor::Parts;

/// A transaction stays open while parts follow one another within this time: as long as some hundred records take.
const GAP: Duration = Duration::from_millis(2);
/// But not longer than this in all: what it keeps readers waiting.
const OPEN_FOR: Duration = Duration::from_millis(25);
/// With more in the transformer's queue it stays open for so long, whatever the gaps: what comes next has waited for as
/// long in that queue, and a transaction costs the broker as much for few records as for many.
const OPEN_FOR_QUEUED: Duration = Duration::from_millis(100);

/// The parts of the unit under way. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    added: Unit,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// There is no unit, or its transaction takes no more.
    #[default]
    Closed,
    Open {
        since: Instant,
        queued: bool,
    },
    /// The worker has no more for it.
    Sealed,
}

impl Inbox {
    /// A unit is handed over, and takes more from now on.
    pub(super) fn open(&self) {
        self.lock().phase = Phase::Open {
            since: Instant::now(),
            queued: false,
        };
    }

    /// Adds a part, if the unit takes it still.
    pub(super) fn put(&self, part: &mut Unit) -> bool {
        let mut state = self.lock();
        let accepted = matches!(state.phase, Phase::Open { .. });
        if accepted {
            state.added.slices.append(&mut part.slices);
            drop(state);
            self.0.1.notify_one();
        }
        accepted
    }

    /// Whether more is in the transformer's queue.
    pub(super) fn queued(&self, now: bool) {
        let mut state = self.lock();
        if let Phase::Open { queued, .. } = &mut state.phase {
            *queued = now;
            drop(state);
            self.0.1.notify_one();
        }
    }

    pub(super) fn seal(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open { .. }) {
            state.phase = Phase::Sealed;
            drop(state);
            self.0.1.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent after every statement, so a panic elsewhere does not spoil it.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts for Inbox {
    fn next(&mut self) -> Option<Unit> {
        let gap_ends = Instant::now() + GAP;
        let mut state = self.lock();
        loop {
            if !state.added.slices.is_empty() {
                return Some(std::mem::take(&mut state.added));
            }
            let until = match state.phase {
                Phase::Open {
                    since,
                    queued: true,
                } => since + OPEN_FOR_QUEUED,
                Phase::Open { since, .. } => gap_ends.min(since + OPEN_FOR),
                Phase::Sealed | Phase::Closed => Instant::now(),
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.phase = Phase::Closed;
                return None;
            }
            state = self
                .0
                .1
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn close(&mut self) -> Unit {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        std::mem::take(&mut state.added)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use orchestrator_core::SourcePartition;
    use orchestrator_core::ports::{Epoch, UnitSlice};

    use super::*;

    fn part(from: i64) -> Unit {
        let slice = UnitSlice {
            partition: SourcePartition::new("t", 0),
            epoch: Epoch(1),
            from,
            next: from + 1,
            done: Vec::new(),
            mark: None,
        };
        Unit {
            slices: vec![slice],
        }
    }

    #[test]
    fn what_is_added_comes_out_in_order_until_it_is_sealed() {
        let mut inbox = Inbox::default();
        assert!(!inbox.put(&mut part(0)), "there is no unit");
        inbox.open();
        for from in 0..2 {
            let mut part = part(from);
            assert!(inbox.put(&mut part) && part.slices.is_empty());
        }
        inbox.seal();
        let mut late = part(2);
        assert!(!inbox.put(&mut late) && late.slices.len() == 1);
        let out: Vec<_> = std::iter::from_fn(|| inbox.next()).collect();
        let slices = out.iter().flat_map(|unit| &unit.slices);
        assert_eq!(slices.map(|slice| slice.from).collect::<Vec<_>>(), [0, 1]);
        assert!(inbox.close().slices.is_empty());
    }

    #[test]
    fn it_waits_for_what_follows_soon_and_then_takes_no_more() {
        let mut inbox = Inbox::default();
        inbox.open();
        let other = inbox.clone();
        let putting = std::thread::spawn(move || other.put(&mut part(0)));
        let mut taken = inbox.next().map_or(0, |_| 1);
        let accepted = putting.join().unwrap();
        taken += inbox.next().map_or(0, |_| 1) + inbox.close().slices.len();
        assert_eq!(taken, usize::from(accepted), "accepted, and so handed out");
        assert!(!inbox.put(&mut part(1)));
    }

    #[test]
    fn it_waits_for_what_is_in_the_queue_through_a_gap() {
        let mut inbox = Inbox::default();
        inbox.open();
        inbox.queued(true);
        let other = inbox.clone();
        let putting = std::thread::spawn(move || {
            std::thread::sleep(4 * GAP);
            let accepted = other.put(&mut part(0));
            other.queued(false);
            accepted
        });
        assert!(inbox.next().is_some(), "it did not wait");
        assert!(putting.join().unwrap());
        let since = Instant::now();
        assert!(inbox.next().is_none());
        assert!(since.elapsed() < OPEN_FOR_QUEUED - OPEN_FOR, "it waited on");
    }

    #[test]
    fn what_was_not_taken_is_given_back() {
        let mut inbox = Inbox::default();
        inbox.open();
        assert!(inbox.put(&mut part(0)));
        assert_eq!(inbox.close().slices.len(), 1);
        assert!(!inbox.put(&mut part(1)) && inbox.next().is_none());
    }
}
