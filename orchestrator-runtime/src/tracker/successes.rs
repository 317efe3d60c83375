//! Runs of records that have succeeded and are to be told the database. Filled by OUTBOX and RELIABLE, emptied by
//! the writer; pure. A run leaves only when it is written.

use std::collections::VecDeque;

use orchestrator_core::{OffsetRange, SourcePartition};

use super::in_flight::Run;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Successes {
    runs: VecDeque<Told>,
    records: usize,
    /// How many runs at the front are being written.
    taken: usize,
}

#[derive(Debug)]
struct Told {
    run: Run,
    at_ms: i64,
}

/// The ranges of one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) ranges: Vec<OffsetRange>,
    /// When the last of them was passed.
    pub(super) at_ms: i64,
}

impl Successes {
    /// Adds a run; one that follows the last is joined with it, up to `max_records`.
    pub(super) fn push(&mut self, run: Run, at_ms: i64, max_records: usize) {
        self.records += run.records;
        let taken = self.taken;
        let last = self.runs.len().checked_sub(1).filter(|at| *at >= taken);
        if let Some(last) = last.and_then(|at| self.runs.get_mut(at))
            && last.run.range.partition == run.range.partition
            && last.run.range.next == run.range.from
            && last.run.records + run.records <= max_records
        {
            last.run.range.next = run.range.next;
            last.run.records += run.records;
            last.at_ms = last.at_ms.max(at_ms);
            return;
        }
        self.runs.push_back(Told { run, at_ms });
    }

    /// The first offset of a partition that waits.
    pub(super) fn first_of(&self, partition: &SourcePartition) -> Option<i64> {
        let ranges = self.runs.iter().map(|told| &told.run.range);
        let its = ranges.filter(|range| range.partition == *partition);
        its.map(|range| range.from).min()
    }

    /// How many records wait.
    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Up to `chunks` chunks, each of as many runs as have `max_records` together; they stay until they are
    /// [`done`](Self::done).
    pub(super) fn take(&mut self, max_records: usize, chunks: usize) -> Vec<Chunk> {
        self.cut(max_records, chunks);
        let mut taken: Vec<Chunk> = Vec::new();
        let mut room = 0;
        self.taken = 0;
        for told in &self.runs {
            let records = told.run.records;
            if let Some(chunk) = taken.last_mut()
                && records <= room
            {
                chunk.ranges.push(told.run.range.clone());
                chunk.at_ms = chunk.at_ms.max(told.at_ms);
                room -= records;
            } else if taken.len() == chunks {
                break;
            } else {
                taken.push(Chunk {
                    ranges: vec![told.run.range.clone()],
                    at_ms: told.at_ms,
                });
                room = max_records.saturating_sub(records);
            }
            self.taken += 1;
        }
        taken
    }

    /// Cuts the runs of so many chunks that have more records, where so many may end: a database that has become slow must
    /// not be asked again and again for what it cannot do in time.
    fn cut(&mut self, max_records: usize, chunks: usize) {
        let (mut at, mut records) = (0, 0);
        while at < self.runs.len() && records < max_records.saturating_mul(chunks) {
            let Told { run, at_ms } = &mut self.runs[at];
            let width = run.range.next - run.range.from;
            if run.records > max_records && width > 1 {
                let share = max_records as f64 / run.records as f64;
                let cut = run.range.from + ((width as f64 * share) as i64).clamp(1, width - 1);
                let mut rest = run.clone();
                rest.range.from = cut;
                rest.records -= max_records;
                run.range.next = cut;
                run.records = max_records;
                let rest = Told {
                    run: rest,
                    at_ms: *at_ms,
                };
                self.runs.insert(at + 1, rest);
            }
            records += self.runs[at].run.records;
            at += 1;
        }
    }

    /// All that were taken are written.
    pub(super) fn done(&mut self) {
        for told in self.runs.drain(..self.taken) {
            self.records -= told.run.records;
        }
        self.taken = 0;
    }

    /// Takes out everything.
    pub(super) fn take_all(&mut self) -> Vec<(Run, i64)> {
        (self.taken, self.records) = (0, 0);
        let runs = std::mem::take(&mut self.runs).into_iter();
        runs.map(|told| (told.run, told.at_ms)).collect()
    }

    /// Brings back a run that was taken out, to come before all others. Not while some are being written.
    pub(super) fn push_first(&mut self, run: Run, at_ms: i64) {
        self.records += run.records;
        self.runs.push_front(Told { run, at_ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(partition: i32, from: i64, next: i64) -> Run {
        Run {
            range: OffsetRange {
                partition: SourcePartition::new("orders", partition),
                from,
                next,
            },
            records: (next - from) as usize,
        }
    }

    fn taken(successes: &mut Successes, max: usize, chunks: usize) -> Vec<Vec<(i64, i64)>> {
        let taken = successes.take(max, chunks);
        let ranges = |chunk: Chunk| chunk.ranges.iter().map(|r| (r.from, r.next)).collect();
        taken.into_iter().map(ranges).collect()
    }

    #[test]
    fn neighbours_are_joined_and_chunks_filled() {
        let mut successes = Successes::default();
        for (from, next) in [(0, 4), (4, 8), (8, 12), (20, 22)] {
            successes.push(run(0, from, next), 1, 10);
        }
        successes.push(run(1, 22, 24), 2, 10);
        assert_eq!(successes.records(), 16);
        let first = |partition| successes.first_of(&SourcePartition::new("orders", partition));
        assert_eq!((first(0), first(1), first(2)), (Some(0), Some(22), None));
        assert_eq!(taken(&mut successes, 10, 1), [[(0, 8)]]);
        assert_eq!(
            taken(&mut successes, 10, 9),
            [vec![(0, 8)], vec![(8, 12), (20, 22), (22, 24)]]
        );
        successes.done();
        assert_eq!((successes.records(), successes.take(10, 9)), (0, vec![]));
    }

    #[test]
    fn a_database_that_has_become_slow_is_asked_for_parts_of_a_run() {
        let mut successes = Successes::default();
        successes.push(run(0, 0, 100), 1, 100);
        assert_eq!(taken(&mut successes, 100, 1), [[(0, 100)]]);
        assert_eq!(taken(&mut successes, 30, 2), [[(0, 30)], [(30, 60)]]);
        successes.done();
        assert_eq!(successes.records(), 40);
        // Few of its offsets are records.
        let mut sparse = Successes::default();
        let records = 10;
        let run = Run {
            records,
            ..run(0, 0, 1000)
        };
        sparse.push(run, 1, 100);
        assert_eq!(taken(&mut sparse, 5, 9), [[(0, 500)], [(500, 1000)]]);
        sparse.done();
        assert_eq!(sparse.records(), 0);
    }

    #[test]
    fn what_is_being_written_does_not_grow() {
        let mut successes = Successes::default();
        successes.push(run(0, 0, 4), 1, 10);
        assert_eq!(taken(&mut successes, 10, 1), [[(0, 4)]]);
        successes.push(run(0, 4, 8), 1, 10);
        successes.done();
        assert_eq!(successes.records(), 4);
        assert_eq!(taken(&mut successes, 10, 1), [[(4, 8)]]);
    }
}
