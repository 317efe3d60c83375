//! Which partitions are owned, how far they are committed and taken, when the safeguard passes over their rows and
//! what it makes of them. Told by the strategy, asked by the safeguard; pure. Rows of records that are being worked
//! on, or whose success may still be told, are never given up here.

use std::collections::BTreeMap;

use orchestrator_core::{
    OffsetRange, Passed, ReceivedRow, Settlement, SourcePartition, SourcePosition, Taken,
};
use tokio::time::{Duration, Instant};

/// When a partition is passed over again although nothing seems to be lost.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// When all its rows are: some come late below what was passed over, from the journal of another process.
const ALL_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Debug)]
pub(super) struct Owned {
    partitions: BTreeMap<SourcePartition, One>,
    stale: Duration,
    /// When something was last lost that the database should have been told.
    lost_at: Option<Instant>,
    lives: u64,
}

#[derive(Debug)]
struct One {
    /// Told from each other by number: a partition may come back while a statement about it is under way.
    life: u64,
    /// The committed offset, for all we know.
    committed: i64,
    /// One past the last record that the ledger was told of.
    taken: i64,
    /// When the next page is due.
    due: Instant,
    /// Where that page begins.
    at: i64,
    pass: Option<Pass>,
    /// When to begin with the first row again.
    all_again: Instant,
}

/// What is known of a pass under way.
#[derive(Clone, Copy, Debug)]
struct Pass {
    began: Instant,
    /// From here on the next one looks again.
    low: i64,
    /// It has left rows that are neither old enough yet nor worked on by us.
    unsettled: bool,
}

/// The next page of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) from: SourcePosition,
    /// The committed offset before the page is read: what is passed later may not have been told.
    committed: i64,
    life: u64,
}

/// What becomes of the rows of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Below the committed offset, and all that was to be told of them is told.
    pub(super) passed: Vec<SourcePosition>,
    /// Beyond, and not ours.
    pub(super) stale: Vec<SourcePosition>,
    /// The first that stays RECEIVED.
    left: Option<i64>,
    unsettled: bool,
}

impl Page {
    /// All below this is passed, and nobody will be told of it any more. `untold` is the first offset that somebody
    /// still will be, asked for after this page was made.
    fn told(&self, untold: Option<i64>) -> i64 {
        untold.map_or(self.committed, |untold| untold.min(self.committed))
    }
}

impl Owned {
    /// Rows are settled that have been RECEIVED for longer than `stale`.
    pub(super) fn new(stale: Duration) -> Self {
        Self {
            partitions: BTreeMap::new(),
            stale,
            lost_at: None,
            lives: 0,
        }
    }

    /// A partition is owned, and committed up to `start`. What an earlier owner has left is old enough at `due`.
    pub(super) fn assigned(&mut self, start: &SourcePosition, now: Instant, due: Instant) {
        self.lives += 1;
        let one = One {
            life: self.lives,
            committed: start.offset,
            taken: start.offset,
            due,
            at: 0,
            pass: None,
            all_again: now + ALL_AGAIN_AFTER,
        };
        self.partitions.insert(start.partition.clone(), one);
    }

    /// A partition is another's.
    pub(super) fn revoked(&mut self, partition: &SourcePartition) {
        self.partitions.remove(partition);
    }

    /// Records are about to be noted and transformed; from now on they are ours, even if they are read again later.
    pub(super) fn received(&mut self, taken: &[Taken]) {
        for Taken { records, .. } in taken {
            let Some(last) = records.last() else {
                continue;
            };
            if let Some(one) = self.partitions.get_mut(last.partition()) {
                one.taken = one.taken.max(last.offset() + 1);
            }
        }
    }

    /// A unit was committed, and what the database is to be told of it waits already.
    pub(super) fn committed(&mut self, passed: &Passed) {
        for OffsetRange {
            partition, next, ..
        } in &passed.ranges
        {
            if let Some(one) = self.partitions.get_mut(partition) {
                one.committed = one.committed.max(*next);
                one.taken = one.taken.max(*next);
            }
        }
    }

    /// Something that the database should have been told was lost. Its row is stale in a while.
    pub(super) fn lost(&mut self, now: Instant) {
        self.lost_at = Some(now);
        for one in self.partitions.values_mut() {
            one.due = one.due.min(now + self.stale);
        }
    }

    /// The page that has been due for longest.
    pub(super) fn due(&mut self, now: Instant) -> Option<Page> {
        let due = self.partitions.iter_mut().filter(|(_, one)| one.due <= now);
        let (partition, one) = due.min_by_key(|(_, one)| one.due)?;
        if one.pass.is_none() {
            if now >= one.all_again {
                one.at = 0;
                one.all_again = now + ALL_AGAIN_AFTER;
            }
            one.pass = Some(Pass {
                began: now,
                low: one.committed,
                unsettled: false,
            });
        }
        Some(Page {
            from: partition.at(one.at),
            committed: one.committed,
            life: one.life,
        })
    }

    /// Whether the partition of a page is still owned, and was all the time.
    pub(super) fn owns(&self, page: &Page) -> bool {
        let one = self.partitions.get(&page.from.partition);
        one.is_some_and(|one| one.life == page.life)
    }

    /// What becomes of these rows of a page, if it is still ours. Those last written before `before_ms` are stale.
    pub(super) fn judge(
        &self,
        page: &Page,
        rows: &[ReceivedRow],
        untold: Option<i64>,
        before_ms: i64,
    ) -> Option<Verdict> {
        let partition = &page.from.partition;
        let one = self.partitions.get(partition).filter(|_| self.owns(page))?;
        let told = page.told(untold);
        let mut verdict = Verdict::default();
        for row in rows {
            let (is_told, is_ours) = (row.offset < told, row.offset < one.taken);
            let settled = match row.updated_at_ms < before_ms {
                true if is_told => &mut verdict.passed,
                true if !is_ours => &mut verdict.stale,
                is_old => {
                    verdict.left.get_or_insert(row.offset);
                    verdict.unsettled |= !is_old && (is_told || !is_ours);
                    continue;
                }
            };
            settled.push(partition.at(row.offset));
        }
        Some(verdict)
    }

    /// A page is done; `next` is where the next one begins, if there is one. Gives back whether the pass goes on.
    pub(super) fn done(
        &mut self,
        page: &Page,
        verdict: &Verdict,
        next: Option<i64>,
        now: Instant,
    ) -> bool {
        if !self.owns(page) {
            return false;
        }
        let Some(one) = self.partitions.get_mut(&page.from.partition) else {
            return false;
        };
        let Some(pass) = &mut one.pass else {
            return false;
        };
        pass.low = pass.low.min(verdict.left.unwrap_or(i64::MAX));
        pass.unsettled |= verdict.unsettled;
        if let Some(next) = next {
            one.at = next;
            return true;
        }
        one.at = pass.low;
        one.due = now + AGAIN_AFTER;
        if pass.unsettled {
            one.due = now + self.stale;
        }
        // What was lost while it went on, or shortly before, was not stale yet.
        let lost = self.lost_at.map(|at| at + self.stale);
        if let Some(stale_at) = lost.filter(|at| *at > pass.began) {
            one.due = one.due.min(stale_at.max(now));
        }
        one.pass = None;
        false
    }
}

/// What a row that is passed becomes.
pub(super) fn of_passed(only_success_passes: bool) -> Settlement {
    match only_success_passes {
        true => Settlement::Success,
        false => Settlement::Unknown,
    }
}

#[cfg(test)]
#[path = "owned_tests.rs"]
mod tests;
