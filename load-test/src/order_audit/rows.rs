//! Shows the book the rows of the ledger, as often as it takes: a program that is not ours is not drained before the
//! audit, and tells its ledger some things late. Called by the audit.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use orchestrator_testkit::audit::{Offsets, Row, Rows};

use super::book::{Book, Wanted};
use super::{LedgerScope, Scope};

const PAUSE: Duration = Duration::from_millis(200);

/// Shows all rows of the run's orders.
pub(super) fn read(
    scope: &Scope,
    ledger: &LedgerScope,
    wanted: &Wanted,
    book: &mut Book,
) -> Result<()> {
    let (source, starts) = &scope.source;
    until_right(book, wanted, ledger.patience, |book| {
        let show = |partition: i32, offset: i64, row: Row| {
            if is_of_the_run(starts, partition, offset) {
                book.row(partition, offset, &row);
            }
        };
        let read = ledger.ledger.read(&scope.group, source, Rows::All, show);
        read.context("reading the ledger")
    })
}

/// A row that is late is not wrong, until patience ends.
fn until_right(
    book: &mut Book,
    wanted: &Wanted,
    patience: Duration,
    mut read: impl FnMut(&mut Book) -> Result<()>,
) -> Result<()> {
    let asked = Instant::now();
    loop {
        book.forget_rows();
        read(book)?;
        if book.has_its_rows(wanted) || asked.elapsed() >= patience {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

/// What lies before is of others; a partition that was not there yet has nothing before.
fn is_of_the_run(starts: &Offsets, partition: i32, offset: i64) -> bool {
    starts.get(&partition).is_none_or(|start| offset >= *start)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use orchestrator_testkit::audit::Seen;
    use orchestrator_testkit::orders::Orders;

    use super::super::WantedRows;
    use super::*;

    const START: i64 = 1000;
    const WANTED: Wanted = Wanted {
        dead_letters: false,
        rows: Some(WantedRows::Failures),
    };

    /// A book of some orders, and where in partition 0 those are that fail.
    fn book() -> (Book, Vec<i64>) {
        let mut book = Book::new(100, true);
        let mut failures = Vec::new();
        for (order, offset) in Orders::new(7).poison(0.2).range(0..100).zip(START..) {
            book.sent(&Seen {
                topic: "t",
                partition: 0,
                offset,
                key: Some(order.key.as_bytes()),
                value: Some(order.value.as_bytes()),
                headers: &[],
            });
            if order.poison.is_some() {
                failures.push(offset);
            }
        }
        assert!(failures.len() > 5);
        (book, failures)
    }

    fn failed(passed: bool) -> Row {
        Row {
            status: "FAILED".to_owned(),
            passed,
        }
    }

    #[test]
    fn rows_that_are_late_are_waited_for() {
        let (mut book, failures) = book();
        let mut readings = 0;
        until_right(&mut book, &WANTED, Duration::from_secs(60), |book| {
            readings += 1;
            // First one is missing, then all are provisional.
            for offset in failures.iter().skip(usize::from(readings == 1)) {
                book.row(0, *offset, &failed(readings != 2));
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(readings, 3);
        assert!(book.has_its_rows(&WANTED));
        let verdict = book.close(&WANTED);
        assert_eq!(verdict.ledger_rows, failures.len() as u64);
        let of_rows = |what: &str| what.contains("row");
        assert!(!verdict.findings.iter().any(|found| of_rows(found.what)));
    }

    #[test]
    fn what_stays_wrong_is_told_when_patience_ends() {
        let (mut book, failures) = book();
        let read = |book: &mut Book| {
            book.row(0, failures[0], &failed(false));
            Ok(())
        };
        until_right(&mut book, &WANTED, Duration::ZERO, read).unwrap();
        assert!(!book.has_its_rows(&WANTED));
    }

    #[test]
    fn rows_from_before_the_run_are_left_out() {
        let starts = Offsets::from([(0, START)]);
        assert!(!is_of_the_run(&starts, 0, START - 1));
        assert!(is_of_the_run(&starts, 0, START));
        assert!(is_of_the_run(&starts, 1, 0));
    }
}
