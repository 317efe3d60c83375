//! Tests of the watches: which provisional rows turn out to be successes.

use super::super::fake_store::{orders, passed};
use super::*;

fn at(offset: i64) -> SourcePosition {
    orders().at(offset)
}

fn watching(start: i64) -> (Watches, Instant) {
    let now = Instant::now();
    let mut watches = Watches::default();
    watches.assigned(&at(start), now);
    assert_eq!(watches.due(now), [at(start)]);
    (watches, now)
}

fn offsets(positions: &[SourcePosition]) -> Vec<i64> {
    positions.iter().map(|position| position.offset).collect()
}

#[test]
fn a_provisional_one_that_is_passed_as_no_failure_has_succeeded() {
    let (mut watches, now) = watching(10);
    assert!(watches.found(&at(10), &[12, 14, 30], now).is_empty());
    assert_eq!(offsets(&watches.committed(&passed(10, 15, &[14]))), [12]);
    assert!(watches.committed(&passed(15, 30, &[])).is_empty());
    assert_eq!(offsets(&watches.committed(&passed(30, 31, &[]))), [30]);
    assert!(watches.committed(&passed(10, 31, &[])).is_empty(), "once");
}

#[test]
fn our_own_failures_count_until_they_are_passed() {
    let (mut watches, _) = watching(0);
    watches.failed(&at(3));
    watches.failed(&at(4));
    assert_eq!(offsets(&watches.committed(&passed(0, 9, &[3]))), [4]);
}

#[test]
fn what_is_found_late_below_the_commit_is_told() {
    let (mut watches, now) = watching(0);
    watches.committed(&passed(0, 10, &[]));
    assert_eq!(offsets(&watches.found(&at(0), &[5, 10], now)), [5]);
    // And once more, for a zombie that wrote after we looked.
    assert!(watches.due(now).is_empty());
    let later = now + LOOK_AGAIN_AFTER;
    assert_eq!(watches.next_due(), Some(later));
    assert_eq!(watches.due(later), [at(0)]);
    assert_eq!(offsets(&watches.found(&at(0), &[6], later)), [6]);
    assert_eq!(watches.next_due(), None);
}

#[test]
fn nothing_is_claimed_where_something_was_dropped() {
    let (mut watches, now) = watching(0);
    watches.unsure(&orders());
    watches.committed(&passed(0, 10, &[]));
    assert!(watches.found(&at(0), &[5], now).is_empty());
}

#[test]
fn many_are_looked_up_page_by_page() {
    let (mut watches, now) = watching(0);
    let page: Vec<i64> = (0..PAGE as i64).collect();
    watches.found(&at(0), &page, now);
    assert_eq!(watches.due(now), [at(PAGE as i64)]);
    watches.found(&at(PAGE as i64), &[], now);
    assert!(watches.due(now).is_empty());
    assert_eq!(watches.committed(&passed(0, 1 << 40, &[])).len(), PAGE);
}

#[test]
fn a_partition_that_is_gone_is_forgotten_once_its_last_commit_is_known() {
    let (mut watches, now) = watching(0);
    watches.failed(&at(2));
    watches.failed(&at(5));
    watches.revoked(&orders(), now);
    assert!(watches.found(&at(0), &[1], now).is_empty());
    assert_eq!(watches.next_due(), None);
    assert_eq!(offsets(&watches.committed(&passed(0, 3, &[]))), [2]);
    watches.forget_gone(now + GONE_KEPT);
    assert!(watches.committed(&passed(0, 9, &[])).is_empty());

    watches.assigned(&at(0), now);
    watches.revoked(&orders(), now);
    watches.assigned(&at(7), now);
    watches.forget_gone(now + GONE_KEPT);
    assert_eq!(watches.due(now), [at(7)], "it has come back");
}
