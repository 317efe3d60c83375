//! How much is kept in memory: which partitions are paused, what is dropped to be read again, and whether more is
//! read at all. Part of the worker.

use std::time::Duration;

use orchestrator_core::lane::Lane;
use orchestrator_core::ports::{Committer, Session};
use orchestrator_core::{HoldReason, Transformer};
use tokio::time::Instant;

use super::Worker;
use super::settings::WorkerObserver;

/// A lane that waits for no longer than this is not paused.
const SHORT_WAIT: Duration = Duration::from_secs(1);

impl<S, C, T, O> Worker<S, C, T, O>
where
    S: Session,
    C: Committer,
    T: Transformer,
    O: WorkerObserver,
{
    /// Whether more records fit: beside what waits behind held records, two units' worth is kept at the most; and of what
    /// waits for a mark only as much as is worked on until the next has come, or it would fill all of that at each start.
    pub(super) fn has_room(&self) -> bool {
        let pending = self.pending.size();
        !self.crowded
            && pending.bytes + self.flowing < 2 * self.settings.max_bytes
            && self.withheld < self.settings.max_bytes / 8
            && pending.records < self.settings.max_records
    }

    /// Pauses lanes that nothing more is to be read of, and reads on where that has ended. A pause throws away what
    /// was fetched ahead, so a lane that waits for a moment only is let be; if such lanes become too large together,
    /// nothing is read for that moment.
    pub(super) fn balance(&mut self) {
        let now = Instant::now();
        let soon = (now + SHORT_WAIT).into_std();
        let now = now.into_std();
        // A transformer that is slow with all keeps all waiting, and then there is just no room. One that hangs with
        // some must not keep the others waiting: those count with the held ones.
        let mut moves = false;
        for lane in self.lanes.values_mut() {
            let still = lane.still_for(now) >= SHORT_WAIT;
            moves |= !still && lane.held().is_none();
        }
        let (mut flowing, mut long, mut short) = (0, 0, 0);
        for lane in self.lanes.values() {
            match waits(lane, soon, moves) {
                Waits::Not => flowing += lane.bytes(),
                Waits::Shortly => short += lane.bytes(),
                // The one record it waits for is kept whatever comes.
                Waits::Long => long += lane.bytes_behind(),
            }
        }
        let max = self.settings.held_max_bytes;
        if long > max / 2 {
            // Read again later: there is no telling for how long it would be kept.
            for lane in self.lanes.values_mut() {
                if lane.paused() && waits(lane, soon, moves) == Waits::Long {
                    long -= lane.bytes_behind();
                    lane.shed();
                    long += lane.bytes_behind();
                }
            }
        }
        self.withheld = self.searches.bytes();
        self.flowing = flowing + self.withheld;
        self.crowded = long + short > max;
        let alone = self.searches.alone(&self.lanes).cloned();
        for (partition, lane) in &mut self.lanes {
            if lane
                .stopped()
                .is_some_and(|stop| stop.reason == HoldReason::OffsetLost)
            {
                continue;
            }
            let waits_long = waits(lane, soon, moves) == Waits::Long;
            // Lanes that wait for long leave most of the room to those that do not.
            let over = waits_long && long > if lane.paused() { max / 8 } else { max / 4 };
            let another_is_alone = alone.as_ref().is_some_and(|alone| alone != partition);
            // It would only take the room of what may be worked on.
            let withholds = waits_long && self.searches.searches(partition);
            let pause = !lane.reads_on() || over || another_is_alone || withholds;
            if pause && !lane.paused() {
                self.session.pause(partition, lane.epoch());
                self.searches.read_again(partition);
                // It may wait for long.
                lane.compact();
            } else if !pause && lane.paused() {
                self.session
                    .resume(partition, lane.epoch(), lane.taken_in());
                self.searches.read_again(partition);
            }
            lane.set_paused(pause);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Not,
    Shortly,
    Long,
}

/// Whether a lane waits; one whose records are with the transformer does if others move on meanwhile.
fn waits(lane: &Lane, soon: std::time::Instant, moves: bool) -> Waits {
    // `soon` is a short wait from now.
    let still = lane.is_still(soon, 2 * SHORT_WAIT);
    match lane.held() {
        None if still && moves => Waits::Long,
        None => Waits::Not,
        Some(held) if still || lane.paused() || held.due.is_none_or(|due| due > soon) => {
            Waits::Long
        }
        Some(_) => Waits::Shortly,
    }
}
