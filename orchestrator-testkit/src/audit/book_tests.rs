//! A program that keeps its promise is clean, and each way to break it is found, and named.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::audit::{Client, Identity};

/// Records 0 to 9 of one source partition, known by their value; 3 and 7 are dead letters, the others come out. What
/// a test does not touch goes as it should.
struct World {
    scope: Scope,
    /// Of each record, what it is known by.
    source: Vec<String>,
    /// What came out, in order, each in partition 0 of the target.
    target: Vec<String>,
    /// Source offsets of the dead letters, in order.
    letters: Vec<i64>,
    /// Source offset and passed.
    rows: Vec<(i64, bool)>,
    /// The committed offset before and after reading.
    committed: (i64, i64),
}

fn world() -> World {
    let mut scope = Scope::new(Client::new("nowhere"), "g", "s", "t", Identity::Value);
    scope.dead_letters = vec!["d".to_owned()];
    let source: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    let letters = [3, 7];
    let target = (0..10).filter(|i| !letters.contains(i));
    World {
        scope,
        source,
        target: target.map(|i| i.to_string()).collect(),
        letters: letters.to_vec(),
        rows: Vec::new(),
        committed: (10, 10),
    }
}

fn seen<'a>(topic: &'a str, offset: usize, value: &'a str) -> Seen<'a> {
    Seen {
        topic,
        partition: 0,
        offset: offset as i64,
        key: None,
        value: Some(value.as_bytes()),
        headers: &[],
    }
}

fn id(value: &str) -> Option<Id> {
    Some(Id::of(value.as_bytes()))
}

fn origin(offset: i64) -> Origin<'static> {
    Origin {
        topic: "s",
        partition: 0,
        offset,
        group: None,
    }
}

fn at(offset: i64) -> Offsets {
    Offsets::from([(0, offset)])
}

impl World {
    fn book(&self) -> Book {
        let mut book = Book::new(&self.scope);
        book.open("s", 0, 0);
        book.passed("s", &at(self.committed.0));
        for (offset, value) in self.source.iter().enumerate() {
            book.sent(&seen("s", offset, value), id(value)).unwrap();
        }
        for (offset, value) in self.target.iter().enumerate() {
            book.output(&seen("t", offset, value), id(value), false);
        }
        for (offset, of) in self.letters.iter().enumerate() {
            book.letter(&seen("d", offset, ""), &origin(*of));
        }
        for (offset, passed) in &self.rows {
            book.row("s", 0, *offset, *passed);
        }
        book.not_beyond("s", &at(self.committed.1));
        book.settle();
        book
    }

    fn place(&self, value: &str) -> usize {
        self.target.iter().position(|out| out == value).unwrap()
    }

    fn take(&mut self, value: &str) {
        let place = self.place(value);
        self.target.remove(place);
    }
}

fn found(book: &Book) -> Vec<(Kind, u64)> {
    let count = |kind: &Kind| book.findings.count(kind.what());
    let kinds = Kind::ALL.into_iter().filter(|kind| count(kind) > 0);
    kinds.map(|kind| (kind, count(&kind))).collect()
}

#[track_caller]
fn check(spoil: impl FnOnce(&mut World), expected: &[(Kind, u64)]) -> Counts {
    let mut world = world();
    spoil(&mut world);
    let book = world.book();
    assert_eq!(found(&book), expected);
    book.counts()
}

#[test]
fn a_promise_that_is_kept_is_clean() {
    let counts = check(|_| {}, &[]);
    let expected = Counts {
        records: 10,
        came_out: 8,
        failed: 2,
        outputs: 8,
        dead_letters: 2,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
}

#[test]
fn a_loss_is_found_where_the_record_was_passed() {
    check(|world| world.take("5"), &[(Kind::Lost, 1)]);
    check(|world| world.letters.truncate(1), &[(Kind::Lost, 1)]);
    let counts = check(
        |world| {
            world.take("9");
            world.committed = (9, 9);
        },
        &[],
    );
    assert_eq!((counts.records, counts.waiting), (9, 1));
}

#[test]
fn a_copy_is_found_wherever_it_is() {
    let doubled = [(Kind::Doubled, 1)];
    check(|world| world.target.insert(2, "2".to_owned()), &doubled);
    check(|world| world.target.push("2".to_owned()), &doubled);
    check(|world| world.letters.push(3), &doubled);
}

#[test]
fn an_output_or_a_dead_letter_out_of_order_is_found() {
    let swapped = [(Kind::OutOfOrder, 1)];
    check(|world| world.target.swap(4, 5), &swapped);
    check(|world| world.letters.swap(0, 1), &swapped);
}

#[test]
fn what_is_beyond_the_committed_offset_is_found() {
    let counts = check(|world| world.committed = (8, 9), &[(Kind::Beyond, 1)]);
    assert_eq!((counts.records, counts.waiting), (8, 2));
    // What was passed while it was read is not.
    check(|world| world.committed = (4, 10), &[]);
}

#[test]
fn all_outputs_of_a_record_or_none_are_there() {
    let twice = |world: &mut World| {
        world.scope.outputs = Outputs::between(2, 2);
        world.target = world
            .target
            .iter()
            .flat_map(|out| [out.clone(), out.clone()])
            .collect();
    };
    check(twice, &[]);
    check(
        |world| {
            twice(world);
            world.take("5");
        },
        &[(Kind::Half, 1)],
    );
    check(
        |world| {
            twice(world);
            world.target.insert(0, "0".to_owned());
        },
        &[(Kind::Doubled, 1)],
    );
}

#[test]
fn a_record_may_be_filtered_only_where_that_is_said() {
    let filter = |world: &mut World, outputs: &str| {
        world.scope.outputs = outputs.parse().unwrap();
        world.take("5");
    };
    let counts = check(|world| filter(world, "0..2"), &[]);
    assert_eq!((counts.filtered, counts.came_out), (1, 7));
    check(|world| filter(world, "1..2"), &[(Kind::Lost, 1)]);
}

#[test]
fn a_record_that_came_out_and_failed_is_found() {
    let both = [(Kind::Both, 1)];
    check(|world| world.letters.insert(1, 5), &both);
    check(|world| world.rows.push((5, true)), &both);
    // A success may follow; that it did may be told late.
    check(|world| world.rows.push((5, false)), &[]);
}

#[test]
fn a_failure_in_the_ledger_is_accounted_for() {
    let in_ledger = |world: &mut World, passed| {
        world.scope.dead_letters.clear();
        world.letters.clear();
        world.rows = vec![(3, passed), (7, passed)];
    };
    for passed in [false, true] {
        let counts = check(|world| in_ledger(world, passed), &[]);
        assert_eq!((counts.failed, counts.ledger_rows), (2, 2));
    }
    check(
        |world| {
            in_ledger(world, true);
            world.rows.pop();
        },
        &[(Kind::Lost, 1)],
    );
}

#[test]
fn a_failure_must_be_dead_lettered_where_there_is_a_queue() {
    check(
        |world| {
            world.letters.pop();
            world.rows = vec![(3, true), (7, true)];
        },
        &[(Kind::OnlyInLedger, 1)],
    );
}

#[test]
fn what_nobody_sent_is_found() {
    let stranger = [(Kind::Stranger, 1)];
    check(|world| world.target.push("x".to_owned()), &stranger);
    check(|world| world.letters.push(10), &stranger);
}

#[test]
fn an_identity_that_two_records_have_is_an_error() {
    let mut book = world().book();
    let error = book.sent(&seen("s", 10, "5"), id("5")).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("s:0:5 and s:0:10 have the same"), "{said}");
    book.sent(&seen("s", 11, "x"), id("x")).unwrap();
    assert!(book.sent(&seen("s", 12, "x"), id("x")).is_err());
}

#[test]
fn what_comes_after_a_record_was_settled_is_found() {
    let mut book = world().book();
    book.output(&seen("t", 20, "2"), id("2"), false);
    assert_eq!(found(&book), [(Kind::Doubled, 1)]);
    book.output(&seen("t", 21, "3"), id("3"), false);
    book.letter(&seen("d", 20, ""), &origin(3));
    let expected = [(Kind::Doubled, 1), (Kind::Late, 1), (Kind::Both, 1)];
    assert_eq!(found(&book), expected);
}

#[test]
fn only_the_last_settled_records_are_remembered() {
    let mut world = world();
    world.scope.remembered = 2;
    let mut book = world.book();
    book.output(&seen("t", 20, "9"), id("9"), false);
    book.output(&seen("t", 21, "0"), id("0"), false);
    assert_eq!(found(&book), [(Kind::Doubled, 1), (Kind::Stranger, 1)]);
}

#[test]
fn what_lies_before_the_start_is_only_counted() {
    let mut book = Book::new(&world().scope);
    book.open("s", 0, 5);
    assert!(book.is_partial());
    book.output(&seen("t", 0, "4"), id("4"), true);
    book.letter(&seen("d", 0, ""), &origin(3));
    book.output(&seen("t", 1, "y"), id("y"), false);
    assert_eq!(found(&book), [(Kind::Stranger, 1)]);
    assert_eq!(book.counts().older, 2);
}

#[test]
fn a_row_that_is_late_is_waited_for() {
    let mut world = world();
    world.scope.dead_letters.clear();
    world.letters.clear();
    world.rows = vec![(3, true), (7, true)];
    let mut book = Book::new(&world.scope);
    book.open("s", 0, 0);
    for (offset, value) in world.source.iter().enumerate() {
        book.sent(&seen("s", offset, value), id(value)).unwrap();
    }
    assert!(!book.misses_something(), "nothing was passed");
    book.passed("s", &at(4));
    for offset in 0..3 {
        let value = offset.to_string();
        book.output(&seen("t", offset, &value), id(&value), false);
    }
    assert!(book.misses_something());
    assert_eq!(book.unsettled("s"), [(0, 0, 4)]);
    book.row("s", 0, 3, false);
    assert!(!book.misses_something());
    book.settle();
    assert_eq!(book.unsettled("s"), []);
}
