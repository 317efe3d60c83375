//! Which provisional FAILED rows the owned partitions may have, and which of them turn out to be successes. Kept by
//! the strategy; pure. Rows are provisional until a commit passes them: those of an earlier owner, of an aborted
//! unit, or of a zombie that wrote after us.

use std::collections::{BTreeSet, HashMap, HashSet};

use orchestrator_core::{Passed, SourcePartition, SourcePosition};
use tokio::time::{Duration, Instant};

/// Offsets asked for at a time.
pub(super) const PAGE: usize = 10_000;
/// The most offsets remembered of one partition.
const MAX_OFFSETS: usize = 100_000;
/// When a partition is looked at again: a zombie is fenced by then and has written its last.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long a partition that was taken away is remembered.
const GONE_KEPT: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watches {
    partitions: HashMap<SourcePartition, Watch>,
}

#[derive(Debug)]
struct Watch {
    start: i64,
    /// What is committed so far.
    next: i64,
    provisional: BTreeSet<i64>,
    /// Where to look next, and when.
    look_from: i64,
    due: Option<Instant>,
    looked_again: bool,
    /// Something of this partition was dropped: what is provisional below `next` may well have been passed as a
    /// failure, so it stays as it is.
    unsure: bool,
    /// Since when it is another's. A unit that was under way then may still turn out to be committed.
    gone: Option<Instant>,
}

impl Watches {
    /// A partition is owned from `start` on.
    pub(super) fn assigned(&mut self, start: &SourcePosition, now: Instant) {
        let watch = Watch {
            start: start.offset,
            next: start.offset,
            provisional: BTreeSet::new(),
            look_from: start.offset,
            due: Some(now),
            looked_again: false,
            unsure: false,
            gone: None,
        };
        self.partitions.insert(start.partition.clone(), watch);
    }

    /// A partition is no longer owned: nothing is looked up any more.
    pub(super) fn revoked(&mut self, partition: &SourcePartition, now: Instant) {
        if let Some(watch) = self.partitions.get_mut(partition) {
            watch.gone = Some(now);
            watch.due = None;
        }
    }

    /// Forgets partitions that have been gone for long enough to hear of a commit.
    pub(super) fn forget_gone(&mut self, now: Instant) {
        let old = |watch: &Watch| watch.gone.is_some_and(|since| now - since >= GONE_KEPT);
        self.partitions.retain(|_, watch| !old(watch));
    }

    /// A row of ours is about to be written: if its unit is aborted, the record may yet succeed.
    pub(super) fn failed(&mut self, position: &SourcePosition) {
        if let Some(watch) = self.partitions.get_mut(&position.partition) {
            watch.provisional.insert(position.offset);
        }
    }

    /// Something about a record of this partition could not be kept.
    pub(super) fn unsure(&mut self, partition: &SourcePartition) {
        if let Some(watch) = self.partitions.get_mut(partition) {
            watch.unsure = true;
        }
    }

    /// Where to look for provisional rows now.
    pub(super) fn due(&self, now: Instant) -> Vec<SourcePosition> {
        let due = self
            .partitions
            .iter()
            .filter(|(_, watch)| watch.due.is_some_and(|due| due <= now));
        due.map(|(partition, watch)| partition.at(watch.look_from))
            .collect()
    }

    /// When to look next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.partitions.values().filter_map(|watch| watch.due).min()
    }

    /// What was found from `from` on, [`PAGE`] at most. Gives back those that were committed meanwhile: they are
    /// successes, unless a mark or a row of ours still waits for them.
    pub(super) fn found(
        &mut self,
        from: &SourcePosition,
        offsets: &[i64],
        now: Instant,
    ) -> Vec<SourcePosition> {
        let partition = &from.partition;
        let Some(watch) = self.partitions.get_mut(partition) else {
            return Vec::new();
        };
        if watch.look_from != from.offset || watch.gone.is_some() {
            return Vec::new();
        }
        let (committed, ahead) =
            offsets.split_at(offsets.partition_point(|offset| *offset < watch.next));
        watch.provisional.extend(ahead);
        let more = offsets
            .last()
            .filter(|_| offsets.len() >= PAGE && watch.provisional.len() < MAX_OFFSETS);
        (watch.look_from, watch.due) = match more {
            Some(last) => (last + 1, Some(now)),
            None if !watch.looked_again => (watch.start, Some(now + LOOK_AGAIN_AFTER)),
            None => (watch.start, None),
        };
        watch.looked_again |= more.is_none();
        if watch.unsure {
            return Vec::new();
        }
        committed
            .iter()
            .map(|offset| partition.at(*offset))
            .collect()
    }

    /// A unit was committed. Gives back the provisional ones among the records that it passed as successes.
    pub(super) fn committed(&mut self, passed: &Passed) -> Vec<SourcePosition> {
        let failures: HashSet<&SourcePosition> = passed.failures.iter().collect();
        let mut succeeded = Vec::new();
        for range in &passed.ranges {
            let Some(watch) = self.partitions.get_mut(&range.partition) else {
                continue;
            };
            watch.next = watch.next.max(range.next);
            if range.from >= range.next || watch.provisional.is_empty() {
                continue;
            }
            let settled: Vec<i64> = watch
                .provisional
                .range(range.from..range.next)
                .copied()
                .collect();
            for offset in settled {
                watch.provisional.remove(&offset);
                let position = range.partition.at(offset);
                if !failures.contains(&position) {
                    succeeded.push(position);
                }
            }
        }
        succeeded
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
