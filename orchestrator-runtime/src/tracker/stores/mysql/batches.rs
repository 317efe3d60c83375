//! How rows and ranges are divided into statements: few enough to be prepared, small enough for a packet, and of few
//! different texts. Used by the store; pure.

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{LedgerIdentity, StoreError, StoreErrorClass};

use super::statements::Ends;

/// The most rows or ranges of a statement, a power of two. The server keeps about half a kilobyte for each parameter
/// of a prepared statement, on each connection; beyond this number statements get hardly any faster.
const STATEMENT_MAX: usize = 256;

/// The most bytes sent at once, where the server would take more.
const PACKET_MAX: usize = 16 * 1024 * 1024;

/// What a value may take besides its bytes: length, type, whether it is null. Numbers are no larger.
const OVERHEAD_MAX: usize = 12;
const COLUMNS: usize = 22;

/// Rows in the order of the key, so that two processes that write the same ones wait for each other and do not run
/// into a deadlock, divided into statements.
///
/// # Errors
/// A row that is larger than `packet`.
pub(super) fn of_rows<'a>(
    rows: &'a [LedgerRow],
    ledger: &LedgerIdentity,
    packet: usize,
) -> Result<Vec<Vec<&'a LedgerRow>>, StoreError> {
    let mut sorted: Vec<(&LedgerRow, usize)> =
        rows.iter().map(|row| (row, size(row, ledger))).collect();
    sorted.sort_by(|(a, _), (b, _)| {
        (&a.position, a.record_timestamp_ms).cmp(&(&b.position, b.record_timestamp_ms))
    });
    // Half of it, for what is there may double when it is filled up.
    let budget = packet.min(PACKET_MAX) / 2;
    let mut rest = &sorted[..];
    let mut statements = Vec::new();
    while let Some((_, first)) = rest.first() {
        if *first > packet {
            return Err(too_large(*first, packet));
        }
        let mut bytes = 0;
        let fits = rest.iter().take(STATEMENT_MAX).take_while(|(_, size)| {
            bytes += size;
            bytes <= budget
        });
        let (statement, after) = rest.split_at(fits.count().max(1));
        rest = after;
        let smallest = statement.iter().min_by_key(|(_, size)| size);
        let smallest = smallest.map(|(row, _)| *row);
        let statement = statement.iter().map(|(row, _)| *row);
        statements.push(filled_up(statement.collect(), smallest));
    }
    Ok(statements)
}

/// Ranges divided into statements.
pub(super) fn of_ranges<'a>(ranges: impl Iterator<Item = Ends<'a>>) -> Vec<Vec<Ends<'a>>> {
    let ranges: Vec<Ends<'a>> = ranges.collect();
    let statements = ranges.chunks(STATEMENT_MAX);
    statements
        .map(|statement| filled_up(statement.to_vec(), statement.last().copied()))
        .collect()
}

/// Up to the next power of two, with one of them: the same twice does what it does once.
fn filled_up<T: Copy>(mut statement: Vec<T>, with: Option<T>) -> Vec<T> {
    if let Some(with) = with {
        statement.resize(statement.len().next_power_of_two(), with);
    }
    statement
}

/// What a row takes of a packet at most.
fn size(row: &LedgerRow, ledger: &LedgerIdentity) -> usize {
    let bytes = [
        ledger.cluster_id.len(),
        ledger.consumer_group.len(),
        row.position.partition.topic.len(),
        row.target_topic.as_ref().map_or(0, |topic| topic.len()),
    ];
    // The row's own size counts all its texts and bytes, and what it takes in memory.
    row.size() + bytes.iter().sum::<usize>() + COLUMNS * OVERHEAD_MAX
}

fn too_large(size: usize, packet: usize) -> StoreError {
    let message = format!(
        "MySQL: a row of {size} bytes is more than the server takes at once ({packet} bytes): raise its \
         max_allowed_packet"
    );
    StoreError::new(StoreErrorClass::Data, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::super::super::fake_store::{failed, identity, orders};
    use super::*;

    fn row(offset: i64, bytes: usize) -> LedgerRow {
        let row = LedgerRow::failed(&failed(offset, 1), true);
        let payload = Some(vec![0; bytes].into());
        LedgerRow { payload, ..row }
    }

    fn offsets(rows: &[LedgerRow], packet: usize) -> Vec<Vec<i64>> {
        let statements = of_rows(rows, &identity(), packet).unwrap();
        let offsets = |rows: Vec<&LedgerRow>| rows.iter().map(|row| row.position.offset).collect();
        statements.into_iter().map(offsets).collect()
    }

    #[test]
    fn rows_are_sorted_and_filled_up_with_the_smallest() {
        let rows = [row(3, 10), row(1, 10), row(5, 9), row(2, 10), row(4, 10)];
        assert_eq!(offsets(&rows, 1 << 20), [vec![1, 2, 3, 4, 5, 5, 5, 5]]);
        assert_eq!(offsets(&rows[..1], 1 << 20), [[3]]);
        assert!(offsets(&[], 1 << 20).is_empty());
    }

    #[test]
    fn a_statement_is_smaller_than_a_packet() {
        let all: Vec<_> = (0..1000).map(|offset| row(offset, 2000)).collect();
        let largest = |packet| {
            let statements = of_rows(&all, &identity(), packet).unwrap();
            let bytes = |rows: &Vec<&LedgerRow>| -> usize {
                rows.iter().map(|row| size(row, &identity())).sum()
            };
            assert!(statements.iter().all(|rows| rows.len().is_power_of_two()));
            (
                statements.iter().map(Vec::len).max().unwrap(),
                statements.iter().map(bytes).max().unwrap(),
            )
        };
        let (most, _) = largest(usize::MAX);
        assert_eq!(most, STATEMENT_MAX);
        let (most, bytes) = largest(100_000);
        assert!(most < 50 && bytes <= 100_000, "{most} {bytes}");
        assert_eq!(largest(4000).0, 1);
        let error = of_rows(&all, &identity(), 2000).unwrap_err();
        assert_eq!(error.class, StoreErrorClass::Data);
    }

    #[test]
    fn ranges_are_filled_up_with_the_last() {
        let topic = orders().topic;
        let ends = |offset| (&*topic, 0, offset, offset);
        let statements = of_ranges((0..3).map(ends));
        assert_eq!(statements, [[ends(0), ends(1), ends(2), ends(2)]]);
        let lengths = of_ranges((0..300).map(ends));
        let lengths: Vec<_> = lengths.iter().map(Vec::len).collect();
        assert_eq!(lengths, [256, 64]);
        assert!(of_ranges((0..0).map(ends)).is_empty());
    }
}
