//! The offsets of a commit in the form that takes the fewest statements. Used for `succeed`; pure. It must never cover
//! an offset that no range has, nor leave one out.

use orchestrator_core::{OffsetRange, SourcePartition};

/// How many offsets a range leaves out at most: each of its rows is compared with all of them.
const LEFT_OUT_MAX: u64 = 500;
/// How many offsets are listed at most.
const LISTED_MAX: u64 = 2000;

/// Offsets of one partition, for one statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Covered<'a> {
    /// All from `first` to `last`, but for some between them: ranges are cut at failures, which are few.
    Range {
        partition: &'a SourcePartition,
        first: i64,
        last: i64,
        but: Vec<i64>,
    },
    /// These, far apart.
    Offsets {
        partition: &'a SourcePartition,
        offsets: Vec<i64>,
    },
}

/// The ranges, by partition and offset.
pub(super) fn covered(ranges: &[OffsetRange]) -> Vec<Covered<'_>> {
    let mut sorted: Vec<&OffsetRange> = ranges.iter().filter(|r| r.from < r.next).collect();
    sorted.sort_by_key(|range| (&range.partition, range.from));
    let same_partition = |a: &&OffsetRange, b: &&OffsetRange| a.partition == b.partition;
    let mut all = Vec::new();
    for ranges in sorted.chunk_by(same_partition) {
        of_partition(&ranges[0].partition, &apart(ranges), &mut all);
    }
    all
}

/// Half-open ranges that neither meet nor overlap.
fn apart(sorted: &[&OffsetRange]) -> Vec<Range> {
    let mut apart: Vec<Range> = Vec::new();
    for range in sorted {
        match apart.last_mut() {
            Some(last) if range.from <= last.end => last.end = last.end.max(range.next),
            _ => apart.push(range.from..range.next),
        }
    }
    apart
}

type Range = std::ops::Range<i64>;

fn of_partition<'a>(partition: &'a SourcePartition, apart: &[Range], all: &mut Vec<Covered<'a>>) {
    let range = |over: Range, but| Covered::Range {
        partition,
        first: over.start,
        last: over.end - 1,
        but,
    };
    let (Some(first), Some(last)) = (apart.first(), apart.last()) else {
        return;
    };
    let gaps = || apart.windows(2).map(|pair| pair[0].end..pair[1].start);
    if length(gaps()) <= LEFT_OUT_MAX {
        all.push(range(first.start..last.end, gaps().flatten().collect()));
    } else if length(apart.iter().cloned()) <= LISTED_MAX {
        let offsets = apart.iter().cloned().flatten().collect();
        all.push(Covered::Offsets { partition, offsets });
    } else {
        all.extend(apart.iter().map(|over| range(over.clone(), Vec::new())));
    }
}

fn length(ranges: impl Iterator<Item = Range>) -> u64 {
    ranges.fold(0, |sum, range| {
        sum.saturating_add(range.end.abs_diff(range.start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ranges: &[(i32, i64, i64)], expected: &[&str]) {
        let ranges = ranges.iter().map(|&(partition, from, next)| OffsetRange {
            partition: SourcePartition::new("orders", partition),
            from,
            next,
        });
        let ranges: Vec<_> = ranges.collect();
        let text = |covered: &Covered<'_>| match covered {
            Covered::Range {
                partition,
                first,
                last,
                but,
            } => format!("{}: {first}..={last} but {but:?}", partition.partition),
            Covered::Offsets { partition, offsets } => {
                format!("{}: {} offsets", partition.partition, offsets.len())
            }
        };
        let found: Vec<_> = covered(&ranges).iter().map(text).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_statement_for_each_partition_is_the_rule() {
        check(&[], &[]);
        check(&[(0, 5, 5), (0, 9, 3)], &[]);
        check(
            &[(1, 3, 9), (0, 1, 2)],
            &["0: 1..=1 but []", "1: 3..=8 but []"],
        );
        check(&[(0, 4, 9), (0, 1, 4), (0, 2, 3)], &["0: 1..=8 but []"]);
        check(
            &[(0, 12, 20), (0, 1, 4), (0, 5, 10)],
            &["0: 1..=19 but [4, 10, 11]"],
        );
    }

    #[test]
    fn offsets_far_apart_are_listed() {
        check(&[(0, 0, 2), (0, 9000, 9001)], &["0: 3 offsets"]);
        check(
            &[(0, 0, 5000), (0, 9000, 9001)],
            &["0: 0..=4999 but []", "0: 9000..=9000 but []"],
        );
        let limits = (0, i64::MIN, i64::MAX);
        check(
            &[limits],
            &["0: -9223372036854775808..=9223372036854775806 but []"],
        );
        check(
            &[(0, i64::MIN, i64::MIN + 1), (0, i64::MAX - 1, i64::MAX)],
            &["0: 2 offsets"],
        );
    }
}
