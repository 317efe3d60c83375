//! Units of work: put together of what is ready, handed over, and what became of them. Part of the worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orchestrator_core::lane::Stop;
use orchestrator_core::ports::{Committer, Fate, Report, Session, SliceFate, UnitSlice};
use orchestrator_core::{Backoff, HoldReason, OffsetRange, Passed, SourcePartition, Transformer};
use tokio::time::Instant;

use super::Worker;
use super::pending::UnderWay;
use super::settings::{Counts, WorkerObserver};
use crate::kill_points::{KillPoint, kill_point};
use crate::planted::{Bug, planted};

/// The back-off of a lane whose offsets could not be committed or whose failures could not be recorded.
const STOP_FOR: Backoff = Backoff {
    base: Duration::from_secs(1),
    max: Duration::from_secs(10),
};

impl<S, C, T, O> Worker<S, C, T, O>
where
    S: Session,
    C: Committer,
    T: Transformer,
    O: WorkerObserver,
{
    /// Moves what is ready from the lanes to the pending unit, by way of the ledger.
    pub(super) fn collect_ready(&mut self) {
        'lanes: for lane in self.lanes.values_mut() {
            loop {
                let room = self.settings.room_beside(self.pending.size());
                if room.records == 0 || room.bytes == 0 || room.output_bytes == 0 {
                    break 'lanes;
                }
                let slice = lane.take_ready(room.records, room.bytes, room.output_bytes);
                let Some(mut slice) = slice else {
                    break;
                };
                slice.mark = self.searches.mark_for(&slice);
                self.pending.push(slice);
            }
        }
        self.start_recording();
        self.balance();
    }

    /// Hands over what is ready: adds it to the one under way if that takes more still; else, if none is and the last
    /// one is not too recent, it is the next.
    pub(super) fn submit(&mut self) {
        let now = Instant::now();
        let too_soon = self
            .last_submit
            .is_some_and(|last| now < last + self.settings.commit_interval);
        let ready = &mut self.pending.ready;
        match &mut self.under_way {
            None if ready.is_empty() || too_soon => return,
            None => {
                let size = ready.size();
                if planted(Bug::SuccessBeforeCommit) {
                    let range = |slice: &UnitSlice| OffsetRange {
                        partition: slice.partition.clone(),
                        from: slice.from,
                        next: slice.next,
                    };
                    let ranges = ready.unit().slices.iter().map(range).collect();
                    let tracker = self.tracker.clone();
                    tokio::spawn(async move {
                        let failures = Vec::new();
                        tracker.committed(&Passed { ranges, failures }).await
                    });
                }
                self.committer.submit(ready.take());
                self.under_way = Some(UnderWay {
                    since: now,
                    size,
                    open: true,
                    queued: false,
                });
                self.last_submit = Some(now);
            }
            Some(unit) if unit.open && !ready.is_empty() => {
                let size = unit.size + ready.size();
                // Else it is whole.
                if self.settings.fits(size) && self.committer.extend(ready.unit()) {
                    unit.size = size;
                    ready.take();
                } else {
                    unit.open = false;
                    self.committer.seal();
                }
            }
            Some(_) => {}
        }
        let Some(unit) = self.under_way.as_mut().filter(|unit| unit.open) else {
            return;
        };
        let queued = self.stage.has_queue();
        if !self.stage.is_busy() && !self.recording.is_busy() {
            // Waited for only while something is on its way.
            unit.open = false;
            self.committer.seal();
        } else if unit.queued != queued {
            unit.queued = queued;
            self.committer.queued(queued);
        }
    }

    /// Takes note of what became of the unit under way.
    pub(super) async fn reported(&mut self, report: Report) {
        kill_point(KillPoint::Reported);
        let submitted = self.under_way.take();
        let mut passed = Passed::default();
        let fates = report.unit.slices.into_iter().zip(report.fates);
        let (committed, others): (Vec<_>, Vec<_>) =
            fates.partition(|(_, fate)| *fate == SliceFate::Committed);
        let mut counts = Counts::default();
        for (slice, _) in committed {
            counts += self.slice_committed(slice, &mut passed);
        }
        self.counts += counts;
        self.observer.committed(&counts);
        if !others.is_empty() {
            self.not_committed(others).await;
        }
        if !passed.ranges.is_empty() {
            passed.failures.sort();
            if let Some(unit) = submitted {
                self.observer
                    .unit_committed(unit.size.records, unit.since.elapsed());
            }
            self.start_telling(passed).await;
        }
        if let Some(failure) = report.ended {
            self.failed = Some(failure);
        }
    }

    async fn not_committed(&mut self, slices: Vec<(UnitSlice, SliceFate)>) {
        // Last first, so that what is put back stands in order.
        let mut stuck = BTreeMap::new();
        for (slice, fate) in slices.into_iter().rev() {
            self.slice_not_committed(slice, fate, &mut stuck).await;
        }
        // Once each, however many slices of it there were: how long it rests depends on how often it was stopped.
        for (partition, error) in stuck {
            let partitions = BTreeSet::from([partition]);
            self.stop_lanes(&partitions, HoldReason::CommitRefused, &error);
        }
    }

    /// `stuck`: the partitions that are to be stopped after all of them, and why.
    async fn slice_not_committed(
        &mut self,
        slice: UnitSlice,
        fate: SliceFate,
        stuck: &mut BTreeMap<SourcePartition, String>,
    ) {
        let partition = slice.partition.clone();
        let Some(lane) = self
            .lanes
            .get_mut(&partition)
            .filter(|lane| lane.epoch() == slice.epoch)
        else {
            return;
        };
        self.searches.not_committed(&partition);
        // What is pending of it follows what was not committed, and waits with it.
        for later in self.pending.remove(&partition).into_iter().rev() {
            lane.put_back(later);
        }
        match fate {
            SliceFate::Committed => {}
            SliceFate::Stripped => lane.put_back(slice),
            SliceFate::Rewind { to } => {
                tracing::warn!(%partition, to, "reading again from the broker's committed offset");
                lane.rewind(to);
                lane.set_paused(false);
                self.session.resume(&partition, lane.epoch(), to);
                self.searches.read_again(&partition);
                self.observer.rewound(&partition, to);
            }
            SliceFate::Stuck { error } => {
                lane.put_back(slice);
                stuck.insert(partition, error);
            }
            SliceFate::Refused {
                error,
                topic,
                permanent,
            } => {
                self.refused(slice, error, &topic, permanent).await;
            }
        }
    }

    fn slice_committed(&mut self, slice: UnitSlice, passed: &mut Passed) -> Counts {
        let mut counts = Counts::default();
        for done in &slice.done {
            match &done.fate {
                Fate::Outputs(outputs) => {
                    counts.ok += 1;
                    counts.outputs += outputs.len() as u64;
                }
                Fate::Failed(failed) => {
                    counts.failed += 1;
                    counts.dead_letters += u64::from(failed.dead_letter.is_some());
                    passed.failures.push(done.record.position());
                }
            }
        }
        // It may have gone and come back since.
        let lane = self.lanes.get_mut(&slice.partition);
        if let Some(lane) = lane.filter(|lane| lane.epoch() == slice.epoch) {
            lane.committed(slice.next);
            self.searches.committed(&slice);
            self.observer.progressed(&slice.partition, slice.next);
        }
        passed.ranges.push(OffsetRange {
            partition: slice.partition,
            from: slice.from,
            next: slice.next,
        });
        counts
    }

    /// Takes back what of these partitions is pending, and stops them for a while.
    pub(super) fn stop_lanes(
        &mut self,
        partitions: &BTreeSet<SourcePartition>,
        reason: HoldReason,
        error: &str,
    ) {
        for partition in partitions {
            let Some(lane) = self.lanes.get_mut(partition) else {
                continue;
            };
            for slice in self.pending.remove(partition).into_iter().rev() {
                lane.put_back(slice);
            }
            let in_a_row = lane.stops() + 1;
            tracing::warn!(%partition, reason = reason.as_str(), error, "a partition is stopped");
            lane.stop(Stop {
                reason,
                error: error.to_owned(),
                in_a_row,
                due: Some((Instant::now() + STOP_FOR.bound(in_a_row)).into_std()),
            });
        }
    }
}
