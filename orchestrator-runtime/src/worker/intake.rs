//! What the session gives: partitions that come and go, and records, which are given to the transformer in chunks.
//! Part of the worker.

use orchestrator_core::lane::{Lane, Stop};
use orchestrator_core::ports::{Committer, Epoch, Intake, Session, SessionEvent, Slice, UnitSlice};
use orchestrator_core::quarantine::Mark;
use orchestrator_core::{HoldReason, Record, SourcePartition, Taken, Transformer};

use super::Worker;
use super::settings::WorkerObserver;
use crate::kill_points::{KillPoint, kill_point};

impl<S, C, T, O> Worker<S, C, T, O>
where
    S: Session,
    C: Committer,
    T: Transformer,
    O: WorkerObserver,
{
    /// Takes in what the session gives.
    pub(super) async fn taken(&mut self, intake: Intake, draining: bool) {
        let mut starts = Vec::new();
        let mut gone = Vec::new();
        for event in intake.events {
            match event {
                SessionEvent::Assigned {
                    partition,
                    epoch,
                    position,
                    remember,
                    mark,
                } => {
                    self.pending.remove(&partition);
                    self.observer.assigned(&partition, position);
                    self.judge.assigned(&partition);
                    let lane = Lane::new(partition.clone(), epoch, position);
                    self.lanes.insert(partition.clone(), lane);
                    self.begin_search(&partition, position, mark);
                    if remember {
                        self.push_position(&partition, None);
                    }
                    starts.push(partition.at(position));
                }
                SessionEvent::Revoked { partition } => {
                    self.pending.remove(&partition);
                    self.lanes.remove(&partition);
                    self.searches.end(&partition);
                    self.observer.revoked(&partition);
                    gone.push(partition);
                }
                SessionEvent::OffsetLost {
                    partition,
                    epoch,
                    committed,
                    low,
                    high,
                } => {
                    self.pending.remove(&partition);
                    self.searches.end(&partition);
                    self.offset_lost(partition, epoch, committed, low, high);
                }
                SessionEvent::CaughtUp { partition } => {
                    self.searches.read_up(&partition);
                    self.observer.caught_up(&partition);
                }
                SessionEvent::Failed(failure) => self.failed = Some(failure),
            }
        }
        // What came and went at once is not ours.
        starts.retain(|start| self.lanes.contains_key(&start.partition));
        if !gone.is_empty() || !starts.is_empty() {
            self.recording.heard().await;
        }
        if !gone.is_empty() {
            self.tracker.revoked(&gone).await;
        }
        if !starts.is_empty()
            && let Err(error) = self.tracker.assigned(&starts).await
        {
            tracing::warn!(%error, "the ledger was not told of new partitions");
        }
        if draining {
            return;
        }
        for slice in intake.slices {
            if self.searches.is_idle() {
                self.give(slice);
            } else {
                self.withhold(slice);
            }
            kill_point(KillPoint::Gathered);
        }
    }

    /// Has the position of a partition committed once more, with a mark or without.
    pub(super) fn push_position(&mut self, partition: &SourcePartition, mark: Option<Mark>) {
        if let Some(lane) = self.lanes.get(partition) {
            let at = lane.given_out();
            self.pending.push(UnitSlice {
                partition: partition.clone(),
                epoch: lane.epoch(),
                from: at,
                next: at,
                done: Vec::new(),
                mark,
            });
        }
    }

    fn offset_lost(
        &mut self,
        partition: SourcePartition,
        epoch: Epoch,
        committed: i64,
        low: i64,
        high: i64,
    ) {
        let error = format!(
            "the committed offset {committed} of {partition} does not exist (the source has {low}..{high}): set \
             ORCH_ON_OFFSET_LOST=EARLIEST to go on from {low}, or reset the group's offset"
        );
        tracing::error!("{error}");
        self.observer.assigned(&partition, committed);
        self.judge.assigned(&partition);
        let mut lane = Lane::new(partition.clone(), epoch, committed);
        // The session reads nothing of it until it is assigned anew.
        lane.set_paused(true);
        lane.stop(Stop {
            reason: HoldReason::OffsetLost,
            error,
            in_a_row: 1,
            due: None,
        });
        self.lanes.insert(partition, lane);
    }

    /// Gives records to the transformer, in chunks.
    pub(super) fn give(&mut self, slice: Slice) {
        let Some(lane) = self.lanes.get_mut(&slice.partition) else {
            return;
        };
        if !lane.expects(slice.epoch, slice.from) {
            return;
        }
        self.observer
            .taken(&slice.partition, slice.next, slice.records.len());
        let life = (slice.epoch, lane.life());
        let fence = self.judge.fence(&slice.partition);
        let notes = self.tracker.notes_received();
        let size = self.stage.chunk_records();
        let mut rest = slice.records.into_iter();
        let mut from = slice.from;
        while rest.len() > 0 {
            let records: Vec<_> = rest.by_ref().take(size).collect();
            let next = rest.as_slice().first().map_or(slice.next, Record::offset);
            if !lane.take_in(from, next, &records) {
                return;
            }
            let partition = slice.partition.clone();
            if notes {
                self.noting
                    .add(partition, life, from, Taken { records, fence });
            } else {
                self.stage.start(partition, life, from, records, None);
            }
            from = next;
        }
    }
}
