//! Which records the ledger was told of and has not heard the end of, and which of them have no row. Kept by OUTBOX
//! and RELIABLE; pure. From it comes what exactly has succeeded, record by record, and how many rows are missing.

use std::collections::{HashMap, HashSet, VecDeque};

use orchestrator_core::{OffsetRange, Passed, Record, SourcePartition, SourcePosition};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    partitions: HashMap<SourcePartition, VecDeque<One>>,
}

#[derive(Clone, Copy, Debug)]
struct One {
    offset: i64,
    /// Whether its RECEIVED row was given up.
    missed: bool,
}

/// Records that follow one another and have succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) range: OffsetRange,
    pub(super) records: usize,
}

/// What a commit has passed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    /// Records that have a row, and succeeded.
    pub(super) succeeded: Vec<Run>,
    /// Records that succeeded and have no row.
    pub(super) missed: Vec<Run>,
}

impl InFlight {
    /// A partition is owned from here on: what was in flight of it is another's business.
    pub(super) fn assigned(&mut self, partition: &SourcePartition) {
        self.partitions.remove(partition);
    }

    /// Records in order per partition. What is told of a second time is read once more, with all behind it.
    pub(super) fn noted<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
        missed: bool,
    ) {
        let mut records = records.into_iter().peekable();
        while let Some(first) = records.peek() {
            let partition = first.partition();
            let known = match self.partitions.get_mut(partition) {
                Some(known) => known,
                None => self.partitions.entry(partition.clone()).or_default(),
            };
            let offset = first.offset();
            known.truncate(known.partition_point(|one| one.offset < offset));
            while let Some(record) = records.next_if(|record| record.partition() == partition) {
                known.push_back(One {
                    offset: record.offset(),
                    missed,
                });
            }
        }
    }

    /// Whether a record has not been passed yet.
    pub(super) fn contains(&self, position: &SourcePosition) -> bool {
        let known = self.partitions.get(&position.partition);
        known.is_some_and(|known| {
            known
                .binary_search_by_key(&position.offset, |one| one.offset)
                .is_ok()
        })
    }

    /// A unit of work was committed. Runs have `max_records` at the most.
    pub(super) fn passed(&mut self, passed: &Passed, max_records: usize) -> Gone {
        let failures: HashSet<&SourcePosition> = passed.failures.iter().collect();
        let mut gone = Gone::default();
        for range in &passed.ranges {
            let Some(known) = self.partitions.get_mut(&range.partition) else {
                continue;
            };
            let mut cut = true;
            let mut last_missed = false;
            while let Some(one) = known.front().copied()
                && one.offset < range.next
            {
                known.pop_front();
                let failed =
                    !failures.is_empty() && failures.contains(&range.partition.at(one.offset));
                if one.offset < range.from || failed {
                    cut = true;
                    continue;
                }
                let runs = match one.missed {
                    true => &mut gone.missed,
                    false => &mut gone.succeeded,
                };
                cut |= one.missed != last_missed;
                last_missed = one.missed;
                match runs.last_mut().filter(|_| !cut) {
                    Some(run) if run.records < max_records => {
                        run.range.next = one.offset + 1;
                        run.records += 1;
                    }
                    _ => runs.push(Run {
                        range: OffsetRange {
                            partition: range.partition.clone(),
                            from: one.offset,
                            next: one.offset + 1,
                        },
                        records: 1,
                    }),
                }
                cut = false;
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> SourcePartition {
        SourcePartition::new("orders", 0)
    }

    fn records(offsets: impl IntoIterator<Item = i64>) -> Vec<Record> {
        let record = |offset| Record::builder("orders", 0, offset).build();
        offsets.into_iter().map(record).collect()
    }

    fn passed(from: i64, next: i64, failures: &[i64]) -> Passed {
        Passed {
            ranges: vec![OffsetRange {
                partition: orders(),
                from,
                next,
            }],
            failures: failures.iter().map(|at| orders().at(*at)).collect(),
        }
    }

    fn runs(runs: &[Run]) -> Vec<(i64, i64, usize)> {
        runs.iter()
            .map(|run| (run.range.from, run.range.next, run.records))
            .collect()
    }

    #[test]
    fn runs_are_cut_at_failures_and_sizes_and_span_gaps() {
        let mut in_flight = InFlight::default();
        in_flight.noted(&records([0, 1, 2, 5, 6, 7, 9]), false);
        let gone = in_flight.passed(&passed(0, 9, &[2]), 3);
        assert_eq!(runs(&gone.succeeded), [(0, 2, 2), (5, 8, 3)]);
        assert!(in_flight.contains(&orders().at(9)) && !in_flight.contains(&orders().at(7)));
        let gone = in_flight.passed(&passed(9, 20, &[]), 3);
        assert_eq!(runs(&gone.succeeded), [(9, 10, 1)]);
        assert_eq!(in_flight.passed(&passed(9, 20, &[]), 3), Gone::default());
    }

    #[test]
    fn rows_that_were_given_up_are_counted_when_their_records_are_passed_as_successes() {
        let mut in_flight = InFlight::default();
        in_flight.noted(&records(0..3), false);
        in_flight.noted(&records(3..6), true);
        in_flight.noted(&records(6..8), false);
        let gone = in_flight.passed(&passed(0, 8, &[4]), 100);
        assert_eq!(runs(&gone.succeeded), [(0, 3, 3), (6, 8, 2)]);
        assert_eq!(runs(&gone.missed), [(3, 4, 1), (5, 6, 1)]);
    }

    #[test]
    fn what_is_read_again_is_known_once() {
        let mut in_flight = InFlight::default();
        in_flight.noted(&records(0..6), true);
        in_flight.noted(&records(3..5), false);
        let gone = in_flight.passed(&passed(0, 6, &[]), 100);
        assert_eq!(runs(&gone.missed), [(0, 3, 3)]);
        assert_eq!(runs(&gone.succeeded), [(3, 5, 2)]);
        in_flight.noted(&records(6..8), true);
        in_flight.assigned(&orders());
        assert_eq!(in_flight.passed(&passed(6, 8, &[]), 9), Gone::default());
    }
}
