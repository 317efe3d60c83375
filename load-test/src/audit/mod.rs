//! Whether what came out is what had to, whatever happened in between: every order is exactly one of output and failure,
//! its failure where the set-up says (dead letter, ledger row), in order per partition, to the byte, and nothing else is
//! there. Called by `soak`. It knows the input from the source topic itself and the outputs from the test kit's oracle,
//! and must share nothing with the runtime, not even what was seen while it ran.

mod findings;
mod ledger;
mod read;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::Result;
use orchestrator_testkit::admin::Admin;
use orchestrator_testkit::orders::{Order, expected_output};
use orchestrator_testkit::reader::Isolation;
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use serde::Serialize;

pub(crate) use findings::{Finding, Findings};
pub(crate) use ledger::{LedgerScope, Rows};

/// A partition and where it begins.
pub(crate) type Starts = Vec<(i32, i64)>;

/// What is audited.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) servers: String,
    pub(crate) group: String,
    /// The topic, and where in it the orders begin.
    pub(crate) source: (String, Starts),
    pub(crate) target: (String, Starts),
    /// Where failures must be, if there.
    pub(crate) dead_letters: Option<(String, Starts)>,
    pub(crate) ledger: Option<LedgerScope>,
    /// How many orders were sent.
    pub(crate) num_records: u64,
    /// Whether outputs are what the example app makes of orders.
    pub(crate) check_content: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) orders: u64,
    pub(crate) outputs: u64,
    pub(crate) dead_letters: u64,
    pub(crate) ledger_rows: u64,
    /// Of them, those of orders that came out.
    pub(crate) rows_of_successes: u64,
    pub(crate) findings: Vec<Finding>,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Reads everything again, and says what is wrong.
pub(crate) fn audit(scope: &Scope) -> Result<Verdict> {
    let mut book = Book::new(scope.num_records, scope.check_content);
    let (source, starts) = &scope.source;
    read::all(&scope.servers, source, starts, |record| book.sent(record))?;
    let (target, starts) = &scope.target;
    read::all(&scope.servers, target, starts, |record| book.output(record))?;
    if let Some((topic, starts)) = &scope.dead_letters {
        read::all(&scope.servers, topic, starts, |record| {
            book.dead_letter(record);
        })?;
    }
    if let Some(ledger) = &scope.ledger {
        ledger::rows(ledger, &scope.group, source, |partition, offset, row| {
            book.row(partition, offset, &row);
        })?;
    }
    let mut verdict = book.close(scope);
    positions(scope, &mut verdict)?;
    Ok(verdict)
}

/// The group has passed every order, and no transaction is open.
fn positions(scope: &Scope, verdict: &mut Verdict) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let admin = Admin::new(&scope.servers)?;
    let mut findings = Findings::default();
    runtime.block_on(async {
        let (source, _) = &scope.source;
        let ends = admin.end_offsets(source, Isolation::Committed).await?;
        let committed = admin.committed(&scope.group, source).await?;
        for (partition, end) in ends {
            let at = committed.get(&partition).copied();
            if at != Some(end) && !(at.is_none() && end == 0) {
                let text = format!("{source}-{partition}: committed {at:?}, the end is {end}");
                findings.add("the committed offset is not the end of the source", || text);
            }
        }
        let letters = scope.dead_letters.as_ref().map(|(topic, _)| topic);
        for topic in [Some(&scope.target.0), letters].into_iter().flatten() {
            let stable = admin.end_offsets(topic, Isolation::Committed).await?;
            let all = admin.end_offsets(topic, Isolation::Uncommitted).await?;
            for (partition, end) in all {
                if stable.get(&partition) != Some(&end) {
                    let text = format!("{topic}-{partition}");
                    findings.add("a transaction is left open", || text);
                }
            }
        }
        anyhow::Ok(())
    })?;
    verdict.findings.extend(findings.into_vec());
    Ok(())
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

/// The account of all orders.
struct Book {
    entries: Vec<Option<Entry>>,
    /// Index by source position, for those without a text to know them by.
    poison: BTreeMap<(i32, i64), usize>,
    check_content: bool,
    /// The last source offset, by topic kind, its partition and the source's.
    last: BTreeMap<(bool, i32, i32), i64>,
    verdict: Verdict,
    findings: Findings,
}

impl Book {
    fn new(num_records: u64, check_content: bool) -> Self {
        Self {
            entries: vec![None; usize::try_from(num_records).unwrap_or(0)],
            poison: BTreeMap::new(),
            check_content,
            last: BTreeMap::new(),
            verdict: Verdict::default(),
            findings: Findings::default(),
        }
    }

    fn sent(&mut self, record: &BorrowedMessage<'_>) {
        self.verdict.orders += 1;
        let value = record.payload().unwrap_or_default();
        let index = Order::index_of(value).and_then(|index| usize::try_from(index).ok());
        let Some((index, slot)) =
            index.and_then(|index| Some((index, self.entries.get_mut(index)?)))
        else {
            self.findings.add(
                "a record in the source that is no order of this run",
                || at(record),
            );
            return;
        };
        if slot.is_some() {
            self.findings.add("an order was sent twice", || at(record));
            return;
        }
        let expected = expected_output(value);
        let poison = expected.is_none();
        let hash = hash(
            record.key(),
            expected.as_deref().map_or(value, str::as_bytes),
        );
        *slot = Some(Entry {
            partition: record.partition(),
            offset: record.offset(),
            hash,
            poison,
            outputs: 0,
            dead_letters: 0,
            rows: 0,
        });
        if poison {
            self.poison
                .insert((record.partition(), record.offset()), index);
        }
    }

    fn output(&mut self, record: &BorrowedMessage<'_>) {
        self.verdict.outputs += 1;
        let check = self.check_content;
        let Some(entry) = self.in_order(record, false) else {
            return;
        };
        entry.outputs = entry.outputs.saturating_add(1);
        let (again, poison) = (entry.outputs > 1, entry.poison);
        let wrong = check && !poison && entry.hash != of(record);
        let findings = &mut self.findings;
        if again {
            findings.add("an order came out more than once", || at(record));
        }
        if check && poison {
            findings.add("a poison order came out", || at(record));
        }
        if wrong {
            findings.add("an output differs from what was to come out", || at(record));
        }
    }

    fn dead_letter(&mut self, record: &BorrowedMessage<'_>) {
        self.verdict.dead_letters += 1;
        let Some(entry) = self.in_order(record, true) else {
            return;
        };
        entry.dead_letters = entry.dead_letters.saturating_add(1);
        let (again, poison) = (entry.dead_letters > 1, entry.poison);
        let wrong = poison && entry.hash != of(record);
        let findings = &mut self.findings;
        if again {
            findings.add("an order was dead-lettered more than once", || at(record));
        }
        if !poison {
            findings.add("a sound order was dead-lettered", || at(record));
        }
        if wrong {
            findings.add("a dead letter differs from its order", || at(record));
        }
    }

    /// The order that a record came from, which must be younger than the one before it there.
    fn in_order(&mut self, record: &BorrowedMessage<'_>, letter: bool) -> Option<&mut Entry> {
        let index = record.payload().and_then(Order::index_of);
        let index = index.and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get_mut(index)?.as_mut());
        let Some(entry) = entry else {
            self.findings
                .add("a record that nobody sent", || at(record));
            return None;
        };
        let lane = (letter, record.partition(), entry.partition);
        let before = self.last.insert(lane, entry.offset);
        if before.is_some_and(|before| before > entry.offset) {
            self.findings.add(
                "a record came out after a later one of its partition",
                || at(record),
            );
        }
        Some(entry)
    }

    fn row(&mut self, partition: i32, offset: i64, row: &ledger::Row) {
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
            _ => self
                .findings
                .add("a row of the ledger that is wrong", position),
        }
    }

    fn close(mut self, scope: &Scope) -> Verdict {
        for (index, entry) in self.entries.iter().enumerate() {
            let mut add = |what| self.findings.add(what, || format!("order {index}"));
            let Some(entry) = entry else {
                add("an order is not in the source");
                continue;
            };
            let failed = entry.poison && scope.check_content;
            if !failed && entry.outputs == 0 && entry.dead_letters == 0 {
                add("an order was lost");
            }
            if failed && scope.dead_letters.is_some() && entry.dead_letters == 0 {
                add("a poison order has no dead letter");
            }
            if failed && scope.ledger.is_some() && entry.rows != 1 {
                add("a poison order has no row in the ledger, or several");
            }
        }
        let wanted = match &scope.ledger {
            Some(ledger) if ledger.rows == Rows::All => {
                self.verdict.orders - self.poison.len() as u64
            }
            _ => 0,
        };
        let found = self.verdict.rows_of_successes;
        if found != wanted {
            let text = format!("{found} instead of {wanted}");
            self.findings.add(
                "the ledger has not as many rows of successes as it must",
                || text,
            );
        }
        self.verdict.findings = self.findings.into_vec();
        self.verdict
    }
}

fn of(record: &BorrowedMessage<'_>) -> u64 {
    hash(record.key(), record.payload().unwrap_or_default())
}

fn hash(key: Option<&[u8]>, value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

fn at(record: &BorrowedMessage<'_>) -> String {
    let (topic, partition) = (record.topic(), record.partition());
    format!("{topic}:{partition}:{}", record.offset())
}
