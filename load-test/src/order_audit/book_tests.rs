//! A run that went well is clean, and each way in which one can go wrong is found, and named.
#![allow(clippy::unwrap_used)]

use orchestrator_testkit::orders::Orders;

use super::*;

const ORDERS: u64 = 200;
const PARTITIONS: u64 = 3;
const WANTED: Wanted = Wanted {
    dead_letters: true,
    rows: Some(WantedRows::Failures),
};

/// A record of a topic.
#[derive(Clone, Debug)]
struct Kept {
    partition: i32,
    offset: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl Kept {
    fn seen(&self) -> Seen<'_> {
        Seen {
            topic: "t",
            partition: self.partition,
            offset: self.offset,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &[],
        }
    }
}

/// What there is after a run.
#[derive(Clone, Debug, Default)]
struct World {
    source: Vec<Kept>,
    target: Vec<Kept>,
    letters: Vec<Kept>,
    rows: Vec<(i32, i64, Row)>,
}

fn row(status: &str, passed: bool) -> Row {
    Row {
        status: status.to_owned(),
        passed,
    }
}

/// All went well.
fn sound() -> World {
    let mut world = World::default();
    for (order, index) in Orders::new(7).poison(0.1).range(0..ORDERS).zip(0..) {
        let record = Kept {
            partition: (index % PARTITIONS) as i32,
            offset: (index / PARTITIONS) as i64,
            key: Some(order.key.clone().into()),
            value: Some(order.value.clone().into()),
        };
        match expected_output(order.value.as_bytes()) {
            Some(output) => world.target.push(Kept {
                value: Some(output.into_bytes()),
                ..record.clone()
            }),
            None => {
                world.letters.push(record.clone());
                let failed = row("FAILED", true);
                world.rows.push((record.partition, record.offset, failed));
            }
        }
        world.source.push(record);
    }
    world
}

fn findings(world: &World, wanted: Wanted) -> Vec<(&'static str, u64)> {
    let mut book = Book::new(ORDERS, true);
    for record in &world.source {
        book.sent(&record.seen());
    }
    for record in &world.target {
        book.output(&record.seen());
    }
    for record in &world.letters {
        book.dead_letter(&record.seen());
    }
    for (partition, offset, row) in &world.rows {
        book.row(*partition, *offset, row);
    }
    let found = book.close(&wanted).findings.into_iter();
    found.map(|finding| (finding.what, finding.count)).collect()
}

#[track_caller]
fn check(spoil: impl FnOnce(&mut World), expected: &[(&'static str, u64)]) {
    let mut world = sound();
    spoil(&mut world);
    assert_eq!(findings(&world, WANTED), expected);
}

#[test]
fn a_run_that_went_well_is_clean() {
    let world = sound();
    assert!(world.letters.len() > 5 && world.target.len() > 100);
    check(|_| {}, &[]);
}

#[test]
fn a_loss_is_found() {
    check(
        |world| drop(world.target.remove(5)),
        &[("an order was lost", 1)],
    );
}

#[test]
fn a_copy_is_found_wherever_it_is() {
    let twice = [("an order came out more than once", 1)];
    check(
        |world| world.target.insert(5, world.target[5].clone()),
        &twice,
    );
    check(
        |world| {
            let mut copy = world.target[5].clone();
            copy.partition += 1;
            world.target.push(copy);
        },
        &twice,
    );
}

#[test]
fn a_swap_within_a_partition_is_found() {
    let same =
        |world: &World, a: usize, b: usize| world.target[a].partition == world.target[b].partition;
    check(
        |world| {
            let other = (6..).find(|b| same(world, 5, *b)).unwrap();
            world.target.swap(5, other);
        },
        &[("a record came out after a later one of its partition", 1)],
    );
}

#[test]
fn a_swap_of_partitions_is_none() {
    check(
        |world| {
            // Neighbours of two partitions, so that nothing of either is passed.
            let neighbours = world.target.windows(2);
            let mut differ = neighbours.map(|pair| pair[0].partition != pair[1].partition);
            let first = differ.position(|differ| differ).unwrap();
            world.target.swap(first, first + 1);
        },
        &[],
    );
}

#[test]
fn one_byte_or_another_key_is_found() {
    let differs = [("an output differs from what was to come out", 1)];
    check(
        |world| {
            let value = world.target[5].value.as_mut().unwrap();
            let last = value.len() - 2;
            value[last] ^= 1;
        },
        &differs,
    );
    check(|world| world.target[5].key = None, &differs);
}

#[test]
fn what_nobody_sent_is_found() {
    check(
        |world| {
            let mut stranger = world.target[5].clone();
            stranger.value = Some(b"{}".to_vec());
            world.target.push(stranger);
        },
        &[("a record that nobody sent", 1)],
    );
}

#[test]
fn a_failure_must_be_where_the_set_up_says() {
    check(
        |world| drop(world.letters.pop()),
        &[("a poison order has no dead letter", 1)],
    );
    check(
        |world| drop(world.rows.pop()),
        &[("a poison order has no row in the ledger, or several", 1)],
    );
    check(
        |world| world.rows[0].2 = row("SUCCESS", true),
        &[
            ("a poison order has no row in the ledger, or several", 1),
            ("a row of the ledger that is wrong", 1),
        ],
    );
    check(
        |world| world.rows[0].2 = row("FAILED", false),
        &[
            ("a poison order has no row in the ledger, or several", 1),
            ("a row of the ledger that is wrong", 1),
        ],
    );
}

#[test]
fn a_failure_that_came_out_too_is_found() {
    check(
        |world| {
            let poison = world.letters[0].clone();
            // In its place.
            let after = |other: &Kept| other.offset > poison.offset;
            let place = world.target.iter().position(after).unwrap();
            world.target.insert(place, poison);
        },
        &[("a poison order came out", 1)],
    );
}

#[test]
fn a_success_that_was_dead_lettered_is_found() {
    check(
        |world| {
            let sound = world.source.iter().find(|record| {
                let value = record.value.as_deref().unwrap();
                expected_output(value).is_some()
            });
            // The first of its partition.
            world.letters.insert(0, sound.unwrap().clone());
        },
        &[("a sound order was dead-lettered", 1)],
    );
}

#[test]
fn rows_of_successes_are_counted_where_all_must_have_one() {
    let mut world = sound();
    let wanted = Wanted {
        rows: Some(WantedRows::All),
        ..WANTED
    };
    let too_few = ("the ledger has not as many rows of successes as it must", 1);
    assert_eq!(findings(&world, wanted), [too_few]);
    for record in &world.target {
        let success = row("SUCCESS", true);
        world.rows.push((record.partition, record.offset, success));
    }
    assert_eq!(findings(&world, wanted), []);
    assert_eq!(findings(&world, WANTED), [too_few]);
}
