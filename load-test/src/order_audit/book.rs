//! The account of all orders: what was sent, what came of each, and what is wrong with that. Filled by the audit; it
//! reads nothing itself.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use orchestrator_testkit::audit::{Findings, Row, Seen};
use orchestrator_testkit::orders::{Order, expected_output};

use super::{Scope, Verdict, WantedRows};

const WRONG_ROW: &str = "a row of the ledger that is wrong";

/// Where failures must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) dead_letters: bool,
    pub(super) rows: Option<WantedRows>,
}

impl Wanted {
    pub(super) fn of(scope: &Scope) -> Self {
        Self {
            dead_letters: scope.dead_letters.is_some(),
            rows: scope.ledger.as_ref().map(|ledger| ledger.rows),
        }
    }
}

/// What is known of an order.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where it was sent.
    partition: i32,
    offset: i64,
    /// Of key and value that have to come out; of its own, if it is poison.
    hash: u64,
    poison: bool,
    outputs: u8,
    dead_letters: u8,
    rows: u8,
}

impl Entry {
    /// Whether it, which failed, is not in the ledger as it must be.
    fn lacks_its_row(&self, wanted: &Wanted) -> bool {
        wanted.rows.is_some() && self.rows != 1
    }
}

/// The account of all orders.
pub(super) struct Book {
    entries: Vec<Option<Entry>>,
    /// Index by source position, for those without a text to know them by.
    poison: BTreeMap<(i32, i64), usize>,
    check_content: bool,
    /// The last source offset, by topic kind, its partition and the source's.
    last: BTreeMap<(bool, i32, i32), i64>,
    verdict: Verdict,
    findings: Findings,
    /// Of the ledger as it was read last.
    wrong_rows: Findings,
}

impl Book {
    pub(super) fn new(num_records: u64, check_content: bool) -> Self {
        Self {
            entries: vec![None; usize::try_from(num_records).unwrap_or(0)],
            poison: BTreeMap::new(),
            check_content,
            last: BTreeMap::new(),
            verdict: Verdict::default(),
            findings: Findings::default(),
            wrong_rows: Findings::default(),
        }
    }

    pub(super) fn sent(&mut self, seen: &Seen<'_>) {
        self.verdict.orders += 1;
        let value = seen.value.unwrap_or_default();
        let index = Order::index_of(value).and_then(|index| usize::try_from(index).ok());
        let Some((index, slot)) =
            index.and_then(|index| Some((index, self.entries.get_mut(index)?)))
        else {
            self.findings.add(
                "a record in the source that is no order of this run",
                || seen.to_string(),
            );
            return;
        };
        if slot.is_some() {
            self.findings
                .add("an order was sent twice", || seen.to_string());
            return;
        }
        let expected = expected_output(value);
        let poison = expected.is_none();
        let hash = hash(seen.key, expected.as_deref().map_or(value, str::as_bytes));
        *slot = Some(Entry {
            partition: seen.partition,
            offset: seen.offset,
            hash,
            poison,
            outputs: 0,
            dead_letters: 0,
            rows: 0,
        });
        if poison {
            self.poison.insert((seen.partition, seen.offset), index);
        }
    }

    pub(super) fn output(&mut self, seen: &Seen<'_>) {
        self.verdict.outputs += 1;
        let check = self.check_content;
        let Some(entry) = self.in_order(seen, false) else {
            return;
        };
        entry.outputs = entry.outputs.saturating_add(1);
        let (again, poison) = (entry.outputs > 1, entry.poison);
        let wrong = check && !poison && entry.hash != of(seen);
        let findings = &mut self.findings;
        if again {
            findings.add("an order came out more than once", || seen.to_string());
        }
        if check && poison {
            findings.add("a poison order came out", || seen.to_string());
        }
        if wrong {
            findings.add("an output differs from what was to come out", || {
                seen.to_string()
            });
        }
    }

    pub(super) fn dead_letter(&mut self, seen: &Seen<'_>) {
        self.verdict.dead_letters += 1;
        let Some(entry) = self.in_order(seen, true) else {
            return;
        };
        entry.dead_letters = entry.dead_letters.saturating_add(1);
        let (again, poison) = (entry.dead_letters > 1, entry.poison);
        let wrong = poison && entry.hash != of(seen);
        let findings = &mut self.findings;
        if again {
            findings.add("an order was dead-lettered more than once", || {
                seen.to_string()
            });
        }
        if !poison {
            findings.add("a sound order was dead-lettered", || seen.to_string());
        }
        if wrong {
            findings.add("a dead letter differs from its order", || seen.to_string());
        }
    }

    /// The order that a record came from, which must be younger than the one before it there.
    fn in_order(&mut self, seen: &Seen<'_>, letter: bool) -> Option<&mut Entry> {
        let index = seen.value.and_then(Order::index_of);
        let index = index.and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get_mut(index)?.as_mut());
        let Some(entry) = entry else {
            self.findings
                .add("a record that nobody sent", || seen.to_string());
            return None;
        };
        let lane = (letter, seen.partition, entry.partition);
        let before = self.last.insert(lane, entry.offset);
        if before.is_some_and(|before| before > entry.offset) {
            self.findings.add(
                "a record came out after a later one of its partition",
                || seen.to_string(),
            );
        }
        Some(entry)
    }

    pub(super) fn row(&mut self, partition: i32, offset: i64, row: &Row) {
        self.verdict.ledger_rows += 1;
        let position = || format!("source {partition}:{offset}, {row:?}");
        let poison = self.poison.get(&(partition, offset));
        match (row.status.as_str(), poison) {
            ("FAILED", Some(index)) if row.passed => {
                if let Some(Some(entry)) = self.entries.get_mut(*index) {
                    entry.rows = entry.rows.saturating_add(1);
                }
            }
            ("SUCCESS", None) if row.passed => self.verdict.rows_of_successes += 1,
            _ => self.wrong_rows.add(WRONG_ROW, position),
        }
    }

    /// Forgets the rows: the ledger is going to be read again.
    pub(super) fn forget_rows(&mut self) {
        for index in self.poison.values() {
            if let Some(Some(entry)) = self.entries.get_mut(*index) {
                entry.rows = 0;
            }
        }
        self.verdict.ledger_rows = 0;
        self.verdict.rows_of_successes = 0;
        self.wrong_rows = Findings::default();
    }

    /// Whether the ledger, as it was read last, is as it must be.
    pub(super) fn has_its_rows(&self, wanted: &Wanted) -> bool {
        let failed = self.poison.values().filter(|_| self.check_content);
        let mut failed = failed.filter_map(|index| self.entries.get(*index)?.as_ref());
        self.wrong_rows.count(WRONG_ROW) == 0
            && self.verdict.rows_of_successes == self.successes(wanted)
            && !failed.any(|entry| entry.lacks_its_row(wanted))
    }

    /// How many rows of successes there must be.
    fn successes(&self, wanted: &Wanted) -> u64 {
        match wanted.rows {
            Some(WantedRows::All) => self.verdict.orders - self.poison.len() as u64,
            _ => 0,
        }
    }

    pub(super) fn close(mut self, wanted: &Wanted) -> Verdict {
        for (index, entry) in self.entries.iter().enumerate() {
            let mut add = |what| self.findings.add(what, || format!("order {index}"));
            let Some(entry) = entry else {
                add("an order is not in the source");
                continue;
            };
            let failed = entry.poison && self.check_content;
            if !failed && entry.outputs == 0 && entry.dead_letters == 0 {
                add("an order was lost");
            }
            if failed && wanted.dead_letters && entry.dead_letters == 0 {
                add("a poison order has no dead letter");
            }
            if failed && entry.lacks_its_row(wanted) {
                add("a poison order has no row in the ledger, or several");
            }
        }
        let successes = self.successes(wanted);
        let found = self.verdict.rows_of_successes;
        if found != successes {
            let text = format!("{found} instead of {successes}");
            self.findings.add(
                "the ledger has not as many rows of successes as it must",
                || text,
            );
        }
        self.verdict.findings = self.findings.into_vec();
        self.verdict.findings.extend(self.wrong_rows.into_vec());
        self.verdict
    }
}

fn of(seen: &Seen<'_>) -> u64 {
    hash(seen.key, seen.value.unwrap_or_default())
}

fn hash(key: Option<&[u8]>, value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
