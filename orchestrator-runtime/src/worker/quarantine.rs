//! Crash-loop quarantine in the worker: which records may be given to the transformer, and which marks are committed for
//! them. What may not waits here until it may. Part of the worker; how the search goes is the core's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use orchestrator_core::lane::Lane;
use orchestrator_core::ports::{Committer, Session, Slice, UnitSlice};
use orchestrator_core::quarantine::{Mark, Quarantine, Search};
use orchestrator_core::{Record, SourcePartition, Transformer};

use super::Worker;
use super::settings::WorkerObserver;

/// The partitions of which nothing was passed yet, or that are under suspicion; and what waits for that.
#[derive(Debug, Default)]
pub(super) struct Searches {
    quarantine: Option<Quarantine>,
    searches: BTreeMap<SourcePartition, Search>,
    /// What was read and may not be given to the transformer yet, of any partition.
    withheld: BTreeMap<SourcePartition, VecDeque<Slice>>,
    /// Those that were read to their end since their search began.
    read_up: BTreeSet<SourcePartition>,
}

impl Searches {
    pub(super) fn new(quarantine: Option<Quarantine>) -> Self {
        Self {
            quarantine,
            ..Self::default()
        }
    }

    /// A partition came, with this mark.
    fn begin(
        &mut self,
        partition: &SourcePartition,
        position: i64,
        mark: Option<Mark>,
    ) -> Option<Search> {
        self.end(partition);
        let search = self.quarantine?.begin(position, mark);
        self.searches.insert(partition.clone(), search);
        Some(search)
    }

    pub(super) fn end(&mut self, partition: &SourcePartition) {
        self.searches.remove(partition);
        self.read_again(partition);
    }

    /// The session reads again from where the lane ends.
    pub(super) fn read_again(&mut self, partition: &SourcePartition) {
        self.withheld.remove(partition);
        self.read_up.remove(partition);
        self.not_committed(partition);
    }

    /// What was to be committed of a partition comes back.
    pub(super) fn not_committed(&mut self, partition: &SourcePartition) {
        if let Some(search) = self.searches.get_mut(partition) {
            search.forget();
        }
    }

    /// There is nothing more to be read of a partition for now.
    pub(super) fn read_up(&mut self, partition: &SourcePartition) {
        if self.searches.contains_key(partition) {
            self.read_up.insert(partition.clone());
        }
    }

    /// Whether every record may be given to the transformer.
    pub(super) fn is_idle(&self) -> bool {
        self.searches.is_empty() && self.withheld.is_empty()
    }

    /// The bytes of what is withheld.
    pub(super) fn bytes(&self) -> usize {
        let slices = self.withheld.values().flatten();
        let records = slices.flat_map(|slice| &slice.records);
        records.map(Record::size).sum()
    }

    /// Whether only some of a partition's records may be given to the transformer.
    pub(super) fn searches(&self, partition: &SourcePartition) -> bool {
        self.searches.contains_key(partition)
    }

    /// What is committed with a slice that has left its lane.
    pub(super) fn mark_for(&mut self, slice: &UnitSlice) -> Option<Mark> {
        let search = self.searches.get_mut(&slice.partition)?;
        if slice.done.is_empty() {
            search.asked()
        } else {
            search.after(slice.next)
        }
    }

    /// A slice of the partition's present epoch is committed.
    pub(super) fn committed(&mut self, slice: &UnitSlice) {
        let Some(search) = self.searches.get_mut(&slice.partition) else {
            return;
        };
        match slice.mark {
            Some(mark) => search.marked(mark),
            // It only remembers a position.
            None if slice.done.is_empty() => {}
            None => {
                if search.is_narrow() {
                    tracing::info!(partition = %slice.partition, "its records are not suspected any more");
                }
                self.searches.remove(&slice.partition);
                self.read_up.remove(&slice.partition);
            }
        }
    }

    /// The partition that has the worker to itself, one record after the other; not while it is held anyhow.
    pub(super) fn alone(
        &self,
        lanes: &BTreeMap<SourcePartition, Lane>,
    ) -> Option<&SourcePartition> {
        let alone = self.searches.iter().find(|(partition, search)| {
            search.is_alone() && lanes.get(*partition).is_some_and(Lane::reads_on)
        });
        alone.map(|(partition, _)| partition)
    }
}

impl<S, C, T, O> Worker<S, C, T, O>
where
    S: Session,
    C: Committer,
    T: Transformer,
    O: WorkerObserver,
{
    /// A partition came, of which an earlier life may have said something.
    pub(super) fn begin_search(
        &mut self,
        partition: &SourcePartition,
        position: i64,
        mark: Option<Mark>,
    ) {
        let Some(search) = self.searches.begin(partition, position, mark) else {
            return;
        };
        let starts = search.starts();
        if let Some(offset) = search.convicted() {
            tracing::error!(
                %partition, offset, starts,
                "the process has ended again and again while it transformed this record, at last with no other: it is \
                 taken for poison (ORCH_CRASH_QUARANTINE_AFTER)"
            );
            if self.stage.refuse(partition.at(offset), starts) {
                self.observer.quarantined();
            }
        } else if search.is_narrow() {
            tracing::warn!(
                %partition, position, starts,
                "the process has ended again and again before anything from here on was passed: records go through a \
                 few at a time, to find the one that ends it (ORCH_CRASH_QUARANTINE_AFTER)"
            );
        }
    }

    /// Keeps what was read until it may be given to the transformer.
    pub(super) fn withhold(&mut self, slice: Slice) {
        let partition = &slice.partition;
        // What comes after a pause is read again when that ends.
        let Some(lane) = self.lanes.get(partition).filter(|lane| !lane.paused()) else {
            return;
        };
        let follows = match self
            .searches
            .withheld
            .get(partition)
            .and_then(VecDeque::back)
        {
            Some(last) => (last.epoch, last.next) == (slice.epoch, slice.from),
            None => lane.expects(slice.epoch, slice.from),
        };
        if follows {
            let queue = self.searches.withheld.entry(partition.clone());
            queue.or_default().push_back(slice);
        }
    }

    /// Gives what is withheld to the transformer as far as it may be.
    pub(super) fn let_through(&mut self) {
        if self.searches.is_idle() {
            return;
        }
        let withheld: Vec<_> = self.searches.withheld.keys().cloned().collect();
        for partition in withheld {
            while let Some(slice) = self.next_let_through(&partition) {
                self.give(slice);
            }
        }
        for partition in std::mem::take(&mut self.searches.read_up) {
            if !self.is_cleared(&partition) {
                self.searches.read_up.insert(partition);
            }
        }
    }

    /// What may be given to the transformer next of what is withheld of a partition.
    fn next_let_through(&mut self, partition: &SourcePartition) -> Option<Slice> {
        match self.searches.alone(&self.lanes) {
            Some(alone) if alone != partition || self.is_at_work() => return None,
            _ => {}
        }
        let lane = self.lanes.get(partition);
        let queue = self.searches.withheld.get_mut(partition)?;
        let next = queue.front();
        let next =
            next.filter(|slice| lane.is_some_and(|lane| lane.expects(slice.epoch, slice.from)));
        let (Some(lane), Some(next)) = (lane, next) else {
            // Nothing is left, or the lane has been taken back and is read again.
            self.searches.withheld.remove(partition);
            return None;
        };
        let Some(search) = self.searches.searches.get_mut(partition) else {
            return queue.pop_front();
        };
        let first = next.records.first().map_or(next.next, Record::offset);
        match search.limit() {
            Some(limit) if first < limit => return split_at(queue, limit),
            _ => {}
        }
        // What is under way brings a mark with it, or ends the search.
        if search.awaits_commit() || !lane.is_empty() {
            return None;
        }
        if !search.ask(first) {
            self.searches.searches.remove(partition);
            return queue.pop_front();
        }
        let mark = search.asked();
        self.push_position(partition, mark);
        None
    }

    /// Whether the transformer has anything to do.
    fn is_at_work(&self) -> bool {
        self.stage.is_busy() || self.noting.is_busy()
    }

    /// A partition was read to its end: once all of it is passed nothing is suspected any more, though there is no
    /// record to show it. False as long as it is not.
    fn is_cleared(&mut self, partition: &SourcePartition) -> bool {
        let Some(search) = self.searches.searches.get(partition) else {
            return true;
        };
        let lane = self.lanes.get(partition);
        let cleared = search.is_narrow()
            && search.convicted().is_none()
            && !search.awaits_commit()
            && !self.searches.withheld.contains_key(partition)
            && lane.is_some_and(|lane| lane.is_empty() && !lane.paused());
        if cleared {
            self.take_mark_back(partition);
        }
        cleared
    }

    /// Takes back what was said of records that are not worked on any more, as the process ends in peace. False if
    /// there was nothing to be taken back.
    pub(super) fn take_marks_back(&mut self) -> bool {
        let searches = std::mem::take(&mut self.searches.searches);
        let marked = |search: &Search| search.limit().is_some() && search.convicted().is_none();
        let mut found = false;
        for (partition, _) in searches.iter().filter(|(_, search)| marked(search)) {
            self.take_mark_back(partition);
            found = true;
        }
        found
    }

    fn take_mark_back(&mut self, partition: &SourcePartition) {
        self.searches.end(partition);
        self.push_position(partition, None);
    }
}

/// Takes the records below `limit` off the front, of which there is one at least.
fn split_at(queue: &mut VecDeque<Slice>, limit: i64) -> Option<Slice> {
    let mut slice = queue.pop_front()?;
    let below = slice.records.partition_point(|it| it.offset() < limit);
    let rest = slice.records.split_off(below);
    if let Some(first) = rest.first() {
        let from = first.offset();
        let next = std::mem::replace(&mut slice.next, from);
        queue.push_front(Slice {
            partition: slice.partition.clone(),
            epoch: slice.epoch,
            from,
            next,
            records: rest,
        });
    }
    Some(slice)
}
