//! Whether what came out is what had to: every order once, in order, to the byte. Pure; called by `mod.rs`. It knows
//! what went in from the source topic itself and what must come out from the test kit's oracle.

use std::collections::BTreeMap;
use std::fmt::Display;

use orchestrator_testkit::orders::expected_output;
use orchestrator_testkit::reader::ReadRecord;

use super::ledger::Row;

/// All that is to be seen from outside.
pub(super) struct Seen {
    pub(super) source: Vec<ReadRecord>,
    pub(super) target: Vec<ReadRecord>,
    pub(super) letters: Vec<ReadRecord>,
    pub(super) rows: Vec<Row>,
}

/// How many there are of each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) read: usize,
    pub(super) enriched: usize,
    pub(super) dead_lettered: usize,
    pub(super) ledger_rows: usize,
}

/// Key, value and timestamp of a record: what an output or a dead letter must have.
type Content = (Option<Vec<u8>>, Option<Vec<u8>>, Option<i64>);
/// Partition and offset of a source record.
type Position = (i32, i64);

/// The figures, and what is wrong, empty if nothing is.
pub(super) fn check(seen: &Seen, sent: u64) -> (Figures, Vec<String>) {
    let mut outputs: BTreeMap<i32, Vec<Content>> = BTreeMap::new();
    let mut poison: BTreeMap<Position, Content> = BTreeMap::new();
    for order in &seen.source {
        let output = expected_output(order.value.as_deref().unwrap_or_default());
        match output {
            // The same key and as many partitions: the same partition.
            Some(output) => outputs.entry(order.partition).or_default().push((
                order.key.clone(),
                Some(output.into_bytes()),
                order.timestamp,
            )),
            None => {
                poison.insert((order.partition, order.offset), content(order));
            }
        }
    }
    let mut wrong = Vec::new();
    if seen.source.len() as u64 != sent {
        wrong.push(format!(
            "{} orders of {sent} can be read",
            seen.source.len()
        ));
    }
    check_outputs(&outputs, &seen.target, &mut wrong);
    let letters = seen
        .letters
        .iter()
        .map(|letter| (origin(letter), content(letter)));
    check_poison("dead letters", &poison, letters, &mut wrong);
    let positions = poison.keys().map(|position| (*position, ())).collect();
    let rows = seen.rows.iter().map(|row| {
        let good = row.status == "FAILED" && row.dead_lettered && row.passed;
        (good.then_some((row.partition, row.offset)), ())
    });
    check_poison("passed rows in the ledger", &positions, rows, &mut wrong);
    let figures = Figures {
        read: seen.source.len(),
        enriched: seen.target.len(),
        dead_lettered: seen.letters.len(),
        ledger_rows: seen.rows.len(),
    };
    (figures, wrong)
}

fn check_outputs(
    expected: &BTreeMap<i32, Vec<Content>>,
    target: &[ReadRecord],
    wrong: &mut Vec<String>,
) {
    let mut found: BTreeMap<i32, Vec<Content>> = BTreeMap::new();
    for output in target {
        if !output.headers.is_empty() {
            differs(wrong, format_args!("an output has headers: {output:?}"));
        }
        found
            .entry(output.partition)
            .or_default()
            .push(content(output));
    }
    let none = Vec::new();
    for partition in expected.keys().chain(found.keys()) {
        let expected = expected.get(partition).unwrap_or(&none);
        let found = found.get(partition).unwrap_or(&none);
        let common = expected.iter().zip(found).take_while(|(e, f)| e == f);
        let common = common.count();
        if common < expected.len().max(found.len()) {
            let (expected, found) = (expected.len(), found.len());
            differs(
                wrong,
                format_args!(
                    "partition {partition} of the target has {found} outputs, {expected} are expected; they differ from \
                     number {common} on"
                ),
            );
        }
    }
}

fn check_poison<T: PartialEq>(
    what: &str,
    expected: &BTreeMap<Position, T>,
    found: impl Iterator<Item = (Option<Position>, T)>,
    wrong: &mut Vec<String>,
) {
    let mut missing: BTreeMap<&Position, &T> = expected.iter().collect();
    let mut unexpected = 0_usize;
    for (position, content) in found {
        let wanted = position.and_then(|position| missing.remove(&position));
        unexpected += usize::from(wanted != Some(&content));
    }
    if !missing.is_empty() || unexpected > 0 {
        let missing = missing.len();
        wrong.push(format!(
            "{what}: {missing} are missing, {unexpected} are wrong, or there twice"
        ));
    }
}

fn content(record: &ReadRecord) -> Content {
    (record.key.clone(), record.value.clone(), record.timestamp)
}

/// Where the record of a dead letter lies.
fn origin(letter: &ReadRecord) -> Option<Position> {
    let partition = letter.header("__streams.errors.partition")?.parse().ok()?;
    let offset = letter.header("__streams.errors.offset")?.parse().ok()?;
    Some((partition, offset))
}

/// A few are enough.
fn differs(wrong: &mut Vec<String>, what: impl Display) {
    if wrong.len() < 5 {
        let text = what.to_string();
        if !wrong.contains(&text) {
            wrong.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_testkit::orders::Orders;

    fn record(topic: &str, offset: i64, value: &str) -> ReadRecord {
        ReadRecord {
            topic: topic.into(),
            partition: 0,
            offset,
            timestamp: Some(7),
            key: Some(b"k".to_vec()),
            value: Some(value.as_bytes().to_vec()),
            headers: Vec::new(),
        }
    }

    /// 100 orders and what has to become of them.
    fn right() -> Seen {
        let (mut source, mut target, mut letters, mut rows) = (vec![], vec![], vec![], vec![]);
        for (order, offset) in Orders::new(1).poison(0.1).range(0..100).zip(0..) {
            source.push(record("orders", offset, &order.value));
            match expected_output(order.value.as_bytes()) {
                Some(output) => target.push(record("enriched", target.len() as i64, &output)),
                None => {
                    let mut letter = record("dlq", letters.len() as i64, &order.value);
                    let numbers = [("partition", 0), ("offset", offset)];
                    letter.headers = numbers
                        .map(|(name, n)| {
                            (
                                format!("__streams.errors.{name}"),
                                Some(n.to_string().into_bytes()),
                            )
                        })
                        .to_vec();
                    letters.push(letter);
                    rows.push(Row {
                        partition: 0,
                        offset,
                        status: "FAILED".to_owned(),
                        attempts: 1,
                        error: String::new(),
                        dead_lettered: true,
                        passed: true,
                    });
                }
            }
        }
        Seen {
            source,
            target,
            letters,
            rows,
        }
    }

    #[track_caller]
    fn wrong(change: impl FnOnce(&mut Seen)) {
        let mut seen = right();
        change(&mut seen);
        let (_, wrong) = check(&seen, 100);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn what_is_right_is_found_right() {
        let seen = right();
        let (figures, wrong) = check(&seen, 100);
        assert_eq!(wrong, Vec::<String>::new());
        assert!(figures.dead_lettered > 0);
        assert_eq!(figures.enriched + figures.dead_lettered, figures.read);
    }

    #[test]
    fn every_mistake_is_found() {
        wrong(|seen| drop(seen.target.pop()));
        wrong(|seen| seen.target.push(seen.target[3].clone()));
        wrong(|seen| seen.target.swap(4, 5));
        wrong(|seen| seen.target[6].timestamp = None);
        wrong(|seen| seen.target[6].key = None);
        wrong(|seen| seen.target[6].headers.push(("x".to_owned(), None)));
        wrong(|seen| seen.target[8].value = Some(b"{}".to_vec()));
        wrong(|seen| drop(seen.letters.pop()));
        wrong(|seen| seen.letters.push(seen.letters[0].clone()));
        wrong(|seen| seen.letters[0].value = None);
        wrong(|seen| seen.letters[0].headers.clear());
        wrong(|seen| drop(seen.rows.pop()));
        wrong(|seen| seen.rows.push(seen.rows[0].clone()));
        wrong(|seen| seen.rows[0].passed = false);
        wrong(|seen| seen.rows[0].status = "RECEIVED".to_owned());
    }
}
