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
    /// Whether more records fit: beside what waits behind held records, two units' worth is kept at the most.
    pub(super) fn has_room(&self) -> bool {
        let flowing: usize = self
            .lanes
            .values()
            .filter(|lane| lane.held().is_none())
            .map(Lane::bytes)
            .sum();
        !self.crowded
            && self.pending.bytes + flowing < 2 * self.settings.max_bytes
            && self.pending.records < self.settings.max_records
    }

    /// Pauses lanes that nothing more is to be read of, and reads on where that has ended. A pause throws away what
    /// was fetched ahead, so a lane that waits for a moment only is let be; if such lanes become too large together,
    /// nothing is read for that moment.
    pub(super) fn balance(&mut self) {
        let soon = (Instant::now() + SHORT_WAIT).into_std();
        let (mut long, mut short) = (0, 0);
        for lane in self.lanes.values() {
            match lane.held() {
                None => {}
                Some(held) if lane.paused() || held.due.is_none_or(|due| due > soon) => {
                    long += lane.bytes();
                }
                Some(_) => short += lane.bytes(),
            }
        }
        let max = self.settings.held_max_bytes;
        if long > max / 2 {
            // Read again later: there is no telling for how long it would be kept.
            let waits_long = |lane: &&mut Lane| lane.paused() && lane.held().is_some();
            for lane in self.lanes.values_mut().filter(waits_long) {
                long -= lane.bytes();
                lane.shed();
                long += lane.bytes();
            }
        }
        self.crowded = long + short > max;
        for (partition, lane) in &mut self.lanes {
            if lane
                .stopped()
                .is_some_and(|stop| stop.reason == HoldReason::OffsetLost)
            {
                continue;
            }
            // Lanes that wait for long leave most of the room to those that do not.
            let over = match lane.held() {
                None => false,
                Some(_) if lane.paused() => long > max / 8,
                Some(held) => long > max / 4 && held.due.is_none_or(|due| due > soon),
            };
            let pause = !lane.reads_on() || over;
            if pause && !lane.paused() {
                self.session.pause(partition, lane.epoch());
                // It may wait for long.
                lane.compact();
            } else if !pause && lane.paused() {
                self.session
                    .resume(partition, lane.epoch(), lane.taken_in());
            }
            lane.set_paused(pause);
        }
    }
}
