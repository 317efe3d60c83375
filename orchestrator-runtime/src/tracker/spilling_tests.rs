//! Tests of how journal entries are put into statements.
#![allow(clippy::unwrap_used)]

use orchestrator_core::SourcePartition;

use super::super::fake_store::failed;
use super::*;

#[test]
fn no_statement_has_two_rows_of_a_record() {
    let row = |offset| LedgerRow::failed(&failed(offset, 1), true);
    let rows: Vec<_> = [1, 2, 1, 3, 4, 4, 5, 6, 7].into_iter().map(row).collect();
    let offsets = |part: &[LedgerRow]| part.iter().map(|row| row.position.offset).collect();
    let parts: Vec<Vec<i64>> = distinct(&rows, 3).into_iter().map(offsets).collect();
    assert_eq!(parts, [vec![1, 2], vec![1, 3, 4], vec![4, 5, 6], vec![7]]);
}

#[test]
fn no_statement_spans_too_many_offsets() {
    let range = |(from, next)| OffsetRange {
        partition: SourcePartition::new("orders", 0),
        from,
        next,
    };
    let ranges: Vec<_> = [(0, 4), (4, 8), (8, 12), (20, 90), (90, 91)]
        .into_iter()
        .map(range)
        .collect();
    let sizes: Vec<_> = narrow(&ranges, 8).iter().map(|part| part.len()).collect();
    assert_eq!(sizes, [2, 1, 1, 1]);
}
