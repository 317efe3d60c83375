//! Tests of what the safeguard settles, and when.

use orchestrator_core::Record;

use super::super::fake_store::orders;
use super::*;

const STALE: Duration = Duration::from_secs(300);
const BEFORE: i64 = 1000;

struct Bench {
    owned: Owned,
    now: Instant,
}

impl Bench {
    /// Owned from `start` on, due at once.
    fn new(start: i64) -> Self {
        let (mut owned, now) = (Owned::new(STALE), Instant::now());
        owned.assigned(&orders().at(start), now, now);
        Self { owned, now }
    }

    fn taken(&mut self, offsets: std::ops::Range<i64>) {
        let record = |offset| Record::builder("orders", 0, offset).build();
        let records = offsets.map(record).collect();
        self.owned.received(&[Taken { records, fence: 1 }]);
    }

    fn committed(&mut self, from: i64, next: i64) {
        let range = OffsetRange {
            partition: orders(),
            from,
            next,
        };
        self.owned.committed(&Passed {
            ranges: vec![range],
            failures: Vec::new(),
        });
    }

    fn page(&mut self) -> Page {
        self.owned.due(self.now).expect("a page is due")
    }

    /// Settles a page with these rows, all of them old.
    fn settle(&mut self, rows: impl IntoIterator<Item = i64>, untold: Option<i64>) -> Verdict {
        let page = self.page();
        let verdict = self
            .owned
            .judge(&page, &old(rows), untold, BEFORE)
            .expect("it is owned");
        self.owned.done(&page, &verdict, None, self.now);
        verdict
    }

    /// Where the next pass begins, and after how long.
    fn next(&mut self) -> (i64, Duration) {
        let one = &self.owned.partitions[&orders()];
        (one.at, one.due - self.now)
    }
}

fn old(offsets: impl IntoIterator<Item = i64>) -> Vec<ReceivedRow> {
    let row = |offset| ReceivedRow {
        offset,
        updated_at_ms: BEFORE - 1,
    };
    offsets.into_iter().map(row).collect()
}

fn offsets(positions: &[SourcePosition]) -> Vec<i64> {
    positions.iter().map(|position| position.offset).collect()
}

#[test]
fn below_the_committed_offset_rows_are_passed_and_beyond_what_is_ours_they_are_stale() {
    let mut bench = Bench::new(4);
    bench.taken(4..7);
    bench.taken(4..5);
    let verdict = bench.settle(0..10, None);
    assert_eq!(offsets(&verdict.passed), [0, 1, 2, 3]);
    assert_eq!(offsets(&verdict.stale), [7, 8, 9]);
    assert_eq!(bench.next(), (4, AGAIN_AFTER), "ours are not waited for");
}

#[test]
fn what_may_still_be_told_is_left_alone() {
    let mut bench = Bench::new(0);
    bench.taken(0..8);
    bench.committed(0, 8);
    let verdict = bench.settle(0..10, Some(5));
    assert_eq!(offsets(&verdict.passed), [0, 1, 2, 3, 4]);
    assert_eq!(offsets(&verdict.stale), [8, 9]);
}

#[test]
fn what_is_committed_while_a_page_is_read_is_not_passed_yet() {
    let mut bench = Bench::new(0);
    bench.taken(0..8);
    let page = bench.page();
    bench.committed(0, 8);
    let verdict = bench.owned.judge(&page, &old(0..8), None, BEFORE);
    assert_eq!(
        verdict.map(|it| (it.passed, it.left)),
        Some((vec![], Some(0)))
    );
}

#[test]
fn what_is_taken_while_a_page_is_read_is_not_stale() {
    let mut bench = Bench::new(0);
    let page = bench.page();
    bench.taken(0..5);
    let verdict = bench.owned.judge(&page, &old(0..8), None, BEFORE);
    assert_eq!(verdict.map(|it| offsets(&it.stale)), Some(vec![5, 6, 7]));
}

#[test]
fn young_rows_are_looked_at_again_when_they_are_old() {
    let mut bench = Bench::new(5);
    let page = bench.page();
    let rows = [3, 4].map(|offset| ReceivedRow {
        offset,
        updated_at_ms: BEFORE,
    });
    let verdict = bench.owned.judge(&page, &rows, None, BEFORE);
    let verdict = verdict.expect("it is owned");
    assert!(verdict.passed.is_empty() && verdict.stale.is_empty());
    bench.owned.done(&page, &verdict, None, bench.now);
    assert_eq!(bench.next(), (3, STALE));
}

#[test]
fn a_pass_goes_on_page_by_page_and_the_next_begins_where_it_has_to() {
    let mut bench = Bench::new(40);
    bench.taken(40..50);
    for (from, rows, next) in [
        (0, 5..6, Some(20)),
        (20, 43..45, Some(60)),
        (60, 0..0, None),
    ] {
        let page = bench.page();
        assert_eq!(page.from, orders().at(from));
        bench.committed(40, 42);
        let verdict = bench.owned.judge(&page, &old(rows), None, BEFORE);
        let more = bench
            .owned
            .done(&page, &verdict.expect("it is owned"), next, bench.now);
        assert_eq!(more, next.is_some());
    }
    assert_eq!(bench.owned.due(bench.now), None);
    // From what was committed when it began: what was passed since may have been lost.
    assert_eq!(bench.next(), (40, AGAIN_AFTER));
    bench.now += AGAIN_AFTER;
    bench.settle([], None);
    assert_eq!(bench.next(), (42, AGAIN_AFTER));
    bench.now += ALL_AGAIN_AFTER;
    assert_eq!(bench.page().from, orders().at(0), "once a day all rows");
}

#[test]
fn what_is_lost_is_looked_for_when_it_is_stale() {
    let mut bench = Bench::new(0);
    bench.settle([], None);
    let lost = bench.now + Duration::from_secs(10);
    bench.owned.lost(lost);
    assert_eq!(bench.next(), (0, Duration::from_secs(310)));
    // More is lost meanwhile: it is not stale then.
    bench.owned.lost(lost + Duration::from_secs(60));
    bench.now += Duration::from_secs(310);
    bench.settle([], None);
    assert_eq!(bench.next(), (0, Duration::from_secs(60)));
    bench.now += Duration::from_secs(60);
    bench.settle([], None);
    assert_eq!(bench.next(), (0, AGAIN_AFTER));
}

#[test]
fn a_partition_that_went_is_not_settled_even_if_it_has_come_back() {
    let mut bench = Bench::new(5);
    let page = bench.page();
    bench.owned.revoked(&orders());
    assert_eq!(bench.owned.judge(&page, &old(0..8), None, BEFORE), None);
    assert_eq!(bench.owned.due(bench.now), None);
    bench
        .owned
        .assigned(&orders().at(2), bench.now, bench.now + STALE);
    assert!(!bench.owned.owns(&page));
    assert!(
        !bench
            .owned
            .done(&page, &Verdict::default(), Some(9), bench.now)
    );
    assert_eq!(bench.next(), (0, STALE));
}
