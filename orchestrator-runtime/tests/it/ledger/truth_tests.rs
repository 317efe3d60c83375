//! The truth and the comparison themselves: a ledger that is wrong in any way must not pass.

use super::table::{Judged, Row, compare};
use super::truth::{Ledger, Life, Mode, Offsets, Strategy, Wanted, truth};
use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::reader::ReadRecord;

const GROUP: &str = "group";
const POISON_AT: i64 = 3;

fn records() -> Vec<ReadRecord> {
    let record = |offset: i64| {
        let order = Orders::new(1).order(offset as u64);
        let value = if offset == POISON_AT {
            "no JSON"
        } else {
            &order.value
        };
        ReadRecord {
            topic: "orders".into(),
            partition: 0,
            offset,
            timestamp: Some(7),
            key: Some(order.key.clone().into()),
            value: Some(value.into()),
            headers: Vec::new(),
        }
    };
    (0..6).map(record).collect()
}

fn ledger(strategy: Strategy) -> Ledger {
    Ledger {
        strategy,
        mode: Mode::SkipAndLog,
        keeps_all_payloads: false,
    }
}

fn until(next: i64) -> Offsets {
    Offsets::from([(0, next)])
}

fn states(strategy: Strategy, lives: &[Life]) -> Vec<String> {
    let state = |wanted: &Wanted| {
        let states = wanted.iter().map(|row| match row {
            None => "-".to_owned(),
            Some(row) => format!(
                "{}{}{}",
                &row.status[..1],
                u8::from(row.passed),
                u8::from(row.resolved)
            ),
        });
        states.collect::<Vec<_>>().join("|")
    };
    let wanted = truth(&records(), ledger(strategy), lives);
    wanted.values().map(state).collect()
}

#[test]
fn the_truth_of_one_life() {
    let life = [Life::new(&Offsets::new(), until(5))];
    let after = |strategy| states(strategy, &life);
    assert_eq!(
        after(Strategy::Outbox),
        ["S10", "S10", "S10", "F10", "S10", "-|R00"]
    );
    assert_eq!(
        after(Strategy::Lightweight),
        ["-", "-", "-", "F10", "-", "-"]
    );
    assert_eq!(after(Strategy::None), ["-"; 6]);
}

#[test]
fn the_truth_after_a_kill_and_a_replay() {
    let mut killed = Life::new(&Offsets::new(), until(5));
    killed.killed = true;
    let after = |lives: &[Life]| states(Strategy::Outbox, lives)[2..4].to_vec();
    assert_eq!(after(std::slice::from_ref(&killed)), ["S10|R00", "F10|F00"]);
    let again = Life::new(&Offsets::new(), until(6));
    assert_eq!(after(&[killed.clone(), again]), ["S10", "F10"]);
    killed.settled = true;
    assert_eq!(after(&[killed]), ["S10|U10|S11|U10", "F10|F00"]);
}

/// A table that is right, and then spoilt.
#[track_caller]
fn check(spoil: impl FnOnce(&mut Vec<Row>), expected: Result<usize, &str>) {
    let life = Life::new(&Offsets::new(), until(6));
    let wanted = truth(&records(), ledger(Strategy::Outbox), &[life]);
    let rows = wanted.iter().map(|((topic, partition, offset), row)| {
        let facts = row[0].clone().unwrap();
        Row::of(facts, (topic, *partition, *offset), GROUP)
    });
    let mut rows: Vec<Row> = rows.collect();
    spoil(&mut rows);
    let judged = compare(&wanted, &rows, GROUP);
    match (expected, judged) {
        (Ok(missing), Ok(judged)) => assert_eq!(judged, Judged { missing, untold: 0 }),
        (Err(word), Err(said)) => assert!(said.contains(word), "{said}"),
        (expected, judged) => panic!("{judged:?}, not {expected:?}"),
    }
}

#[test]
fn a_ledger_that_is_wrong_does_not_pass() {
    check(|_| {}, Ok(0));
    check(|rows| drop(rows.remove(0)), Ok(1));
    check(|rows| rows[0].status = "FAILED".into(), Err("wrong"));
    check(|rows| rows[0].status = "RECEIVED".into(), Err("wrong"));
    check(|rows| rows[0].passed_at = None, Err("wrong"));
    check(|rows| rows[1].message_key = None, Err("wrong"));
    check(|rows| rows[2].dedup_key.push('x'), Err("wrong"));
    check(|rows| rows[3].attempts += 1, Err("wrong"));
    check(|rows| rows[3].dead_lettered = true, Err("wrong"));
    check(|rows| rows[3].payload = None, Err("wrong"));
    check(
        |rows| rows[3].error_message = None,
        Err("class without message"),
    );
    check(|rows| rows[4].payload = Some(vec![1]), Err("wrong"));
    check(|rows| rows[5].source_offset = 9, Err("extra"));
    check(|rows| rows[5].source_offset = 4, Err("doubled"));
    check(
        |rows| rows[5].consumer_group = "other".into(),
        Err("of another"),
    );
}

/// Of a failure for which there was no room the note may be there; of a success that is not enough.
#[test]
fn a_note_of_a_failure_is_a_missing_row() {
    let back = |row: &mut Row| {
        row.status = "RECEIVED".into();
        row.passed_at = None;
    };
    check(|rows| back(&mut rows[POISON_AT as usize]), Ok(1));
    check(|rows| back(&mut rows[0]), Err("wrong"));
}
