//! How many rows a statement is about, so that a database that has become slow is asked for less at a time, and not
//! again and again for what it cannot do in time. Pure.

use std::time::Duration;

/// So many rows a statement is about at least while it is answered, however late.
const LEAST_WHEN_LATE: usize = 100;
/// Statements about fewer may be about twice as many whenever they are done in time: it is hardly their rows that take it,
/// and a database that is late with every statement must not be asked for each row alone.
const FEW: usize = 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    rows: usize,
    max_rows: usize,
    /// Statements that take longer are about too many rows.
    slow: Duration,
    /// Statements that are done sooner may be about twice as many.
    fast: Duration,
    /// And those that are done sooner than this about some more: a database that needs as long for one row as for many must
    /// not be left with one.
    steady: Duration,
}

impl Pace {
    /// For statements that somebody waits for: as many rows as there may be, unless time-outs say otherwise.
    pub(super) fn full(max_rows: usize, timeout: Duration) -> Self {
        Self {
            rows: max_rows,
            max_rows,
            slow: timeout,
            fast: timeout / 3,
            steady: timeout * 2 / 3,
        }
    }

    /// For statements that nobody waits for: as many rows as the database does in a fraction of the time, so that no
    /// other statement has to wait for it, and it never counts as slow.
    pub(super) fn gentle(max_rows: usize, timeout: Duration) -> Self {
        Self {
            rows: (max_rows / 8).max(1),
            max_rows,
            slow: timeout / 2,
            fast: timeout / 8,
            steady: timeout / 8,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// A statement about so many rows has taken so long, or `failed` for that reason.
    pub(super) fn took(&mut self, rows: usize, took: Duration, failed: bool) {
        let at_most = self.rows.min(rows);
        self.rows = if failed {
            // Down to one, for rows may be large, but not at once.
            (at_most / 8).max((at_most / 2).min(FEW)).max(1)
        } else if took > self.slow {
            // Not less and less of a database that answers late whatever it is asked.
            (at_most / 2).max(LEAST_WHEN_LATE)
        } else if (took < self.fast || rows < FEW) && rows >= self.rows {
            self.rows * 2
        } else if took < self.steady && rows >= self.rows {
            self.rows + self.rows / 4 + 1
        } else {
            self.rows
        };
        self.rows = self.rows.min(self.max_rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(160);
    const QUICK: Duration = Duration::from_millis(10);

    #[test]
    fn what_timed_out_is_tried_with_less_and_with_more_again_when_it_goes_well() {
        let mut pace = Pace::full(1000, TIMEOUT);
        assert_eq!(pace.rows(), 1000);
        let mut sizes = Vec::new();
        for _ in 0..6 {
            pace.took(pace.rows(), TIMEOUT, true);
            sizes.push(pace.rows());
        }
        assert_eq!(sizes, [125, 15, 7, 3, 1, 1]);
        for _ in 0..10 {
            pace.took(pace.rows(), QUICK, false);
        }
        assert_eq!(pace.rows(), 1000);
    }

    #[test]
    fn of_a_database_that_takes_its_time_whatever_it_is_asked_more_is_asked_again() {
        let mut pace = Pace::full(1000, TIMEOUT);
        for _ in 0..4 {
            pace.took(pace.rows(), TIMEOUT, true);
        }
        for _ in 0..40 {
            pace.took(pace.rows(), TIMEOUT / 2, false);
        }
        assert_eq!(pace.rows(), 1000);
    }

    #[test]
    fn of_a_database_that_is_nearly_too_late_with_every_statement_a_few_are_asked_at_a_time() {
        let mut pace = Pace::full(1000, TIMEOUT);
        for _ in 0..9 {
            pace.took(pace.rows(), TIMEOUT, true);
        }
        assert_eq!(pace.rows(), 1);
        for _ in 0..9 {
            pace.took(pace.rows(), TIMEOUT - QUICK, false);
        }
        assert_eq!(pace.rows(), 16);
    }

    #[test]
    fn small_statements_say_nothing_of_large_ones_unless_they_fail() {
        let mut pace = Pace::full(1000, TIMEOUT);
        pace.took(1000, TIMEOUT, true);
        pace.took(3, QUICK, false);
        assert_eq!(pace.rows(), 125);
        pace.took(40, TIMEOUT, true);
        assert_eq!(pace.rows(), 10);
    }

    #[test]
    fn a_gentle_one_shrinks_before_it_fails() {
        let mut pace = Pace::gentle(8000, TIMEOUT);
        assert_eq!(pace.rows(), 1000);
        pace.took(1000, TIMEOUT - QUICK, false);
        assert_eq!(pace.rows(), 500);
        for _ in 0..4 {
            pace.took(pace.rows(), TIMEOUT - QUICK, false);
        }
        assert_eq!(pace.rows(), 100);
    }
}
