//! Tests of the safeguard over a store in memory, in virtual time: the wall clock stands still there, and rows are
//! made older instead.
#![allow(clippy::unwrap_used)]

use orchestrator_core::ledger_row::{LedgerRow, LedgerStatus};
use orchestrator_core::{OffsetRange, Record};
use tempfile::TempDir;

use super::super::fake_store::{FakeStore, Mood, StoredRow, failed, identity, orders, until};
use super::super::safeguard::PAGE_ROWS;
use super::super::{Ledger, LedgerPlan};
use super::*;
use crate::clock::now_ms;
use crate::config::Strategy;

const STALE: Duration = Duration::from_secs(300);

fn outbox() -> LedgerSettings {
    LedgerSettings {
        strategy: Strategy::Outbox,
        retention: None,
        ..LedgerSettings::default()
    }
}

fn only_success_passes() -> LedgerSettings {
    LedgerSettings {
        only_success_passes: true,
        ..outbox()
    }
}

fn spilling(folder: &TempDir) -> LedgerSettings {
    LedgerSettings {
        spill_dir: Some(folder.path().to_owned()),
        ..outbox()
    }
}

async fn start(store: &Arc<FakeStore>, settings: LedgerSettings) -> Ledger {
    let plan = LedgerPlan::with_store(store.clone(), settings).unwrap();
    plan.start(identity()).await
}

/// A process that owns `orders-0` from `offset` on.
async fn owner(store: &Arc<FakeStore>, settings: LedgerSettings, offset: i64) -> Ledger {
    let ledger = start(store, settings).await;
    assign(&ledger, orders(), offset).await;
    ledger
}

async fn assign(ledger: &Ledger, partition: SourcePartition, offset: i64) {
    let starts = [partition.at(offset)];
    ledger.tracker.assigned(&starts).await.unwrap();
}

async fn take(ledger: &Ledger, offsets: std::ops::Range<i64>, fence: i64) {
    take_of(ledger, &orders(), offsets, fence).await;
}

async fn take_of(
    ledger: &Ledger,
    partition: &SourcePartition,
    offsets: std::ops::Range<i64>,
    fence: i64,
) {
    let SourcePartition { topic, partition } = partition;
    let record = |offset| Record::builder(topic.clone(), *partition, offset).timestamp_ms(1);
    let records = offsets.map(|offset| record(offset).build()).collect();
    let taken = [Taken { records, fence }];
    ledger.tracker.received(&taken).await.unwrap();
}

async fn commit(ledger: &Ledger, from: i64, next: i64) {
    let range = OffsetRange {
        partition: orders(),
        from,
        next,
    };
    let passed = Passed {
        ranges: vec![range],
        failures: Vec::new(),
    };
    ledger.tracker.committed(&passed).await.unwrap();
}

/// What a process has left that took these records, and ended.
async fn left_behind(store: &Arc<FakeStore>, offsets: std::ops::Range<i64>) {
    let ledger = owner(store, outbox(), offsets.start).await;
    take(&ledger, offsets, 100).await;
}

/// Rows that somebody has written an hour ago.
fn plant(store: &FakeStore, offsets: impl Iterator<Item = i64>, status: LedgerStatus) {
    let then = now_ms() - 3_600_000;
    for offset in offsets {
        let record = Record::builder("orders", 0, offset).timestamp_ms(1).build();
        let row = StoredRow {
            stale: false,
            status,
            row: LedgerRow::received(&record, 100, false),
            resolved: false,
            created_ms: then,
            updated_ms: then,
        };
        store.inner().rows.insert((orders().at(offset), 1), row);
    }
}

/// Time passes.
async fn pass(store: &FakeStore, time: Duration) {
    store.age(time);
    sleep(time).await;
}

/// More than it takes for a first pass, from one to the other.
async fn first_pass(store: &FakeStore) {
    pass(store, STALE * 2).await;
}

fn lines(offsets: std::ops::Range<i64>, what: &str) -> Vec<String> {
    offsets.map(|offset| format!("{offset} {what}")).collect()
}

fn asked(store: &FakeStore, name: &str) -> Vec<(i64, usize)> {
    let inner = store.inner();
    let asked = inner.asked.iter().filter(|(what, ..)| *what == name);
    asked.map(|(_, from, rows)| (*from, *rows)).collect()
}

fn statuses(store: &FakeStore, partition: i32) -> Vec<LedgerStatus> {
    let inner = store.inner();
    let rows = inner.rows.iter();
    let its = rows.filter(|((position, _), _)| position.partition.partition == partition);
    its.map(|(_, stored)| stored.status).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_passed_and_what_nobody_works_on_is_settled() {
    for (settings, passed) in [
        (outbox(), "UNKNOWN passed"),
        (only_success_passes(), "SUCCESS passed"),
    ] {
        let store = FakeStore::new();
        left_behind(&store, 0..12).await;
        let next = owner(&store, settings, 6).await;
        // Held since, and rewound.
        take(&next, 6..9, 100).await;
        take(&next, 6..8, 100).await;
        pass(&store, STALE - Duration::from_secs(1)).await;
        assert_eq!(store.summary(), lines(0..12, "RECEIVED provisional"));
        first_pass(&store).await;
        let mut expected = lines(0..6, passed);
        expected.extend(lines(6..9, "RECEIVED provisional"));
        expected.extend(lines(9..12, "FAILED provisional"));
        assert_eq!(store.summary(), expected);
        // However old they get.
        pass(&store, STALE * 100).await;
        assert_eq!(store.summary(), expected);
        // Whoever takes them in the end.
        take(&next, 9..11, 200).await;
        commit(&next, 6, 12).await;
        expected.truncate(6);
        expected.extend(lines(6..11, "SUCCESS passed"));
        expected.push("11 FAILED provisional".into());
        until("told", || store.summary() == expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_row_whose_record_succeeds_ends_as_success_and_one_that_fails_as_failed() {
    let store = FakeStore::new();
    left_behind(&store, 0..3).await;
    let next = owner(&store, outbox(), 0).await;
    first_pass(&store).await;
    assert_eq!(store.summary(), lines(0..3, "FAILED provisional"));
    // As after a re-balance between processes whose clocks differ: no row is noted anew.
    take(&next, 0..3, 100).await;
    assert_eq!(store.summary(), lines(0..3, "FAILED provisional"));
    next.tracker.failed(&[failed(1, 100)]).await.unwrap();
    let range = OffsetRange {
        partition: orders(),
        from: 0,
        next: 3,
    };
    let passed = Passed {
        ranges: vec![range],
        failures: vec![orders().at(1)],
    };
    next.tracker.committed(&passed).await.unwrap();
    let expected = ["0 SUCCESS passed", "1 FAILED passed", "2 SUCCESS passed"];
    until("told", || store.summary() == expected).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_owner_settles() {
    let store = FakeStore::new();
    let partitions = [0, 1, 2].map(|number| SourcePartition::new("orders", number));
    {
        let before = start(&store, outbox()).await;
        for partition in &partitions {
            assign(&before, partition.clone(), 0).await;
            take_of(&before, partition, 0..4, 100).await;
        }
    }
    let [a, b] = [
        start(&store, outbox()).await,
        start(&store, only_success_passes()).await,
    ];
    assign(&a, partitions[0].clone(), 4).await;
    assign(&a, partitions[2].clone(), 4).await;
    assign(&b, partitions[1].clone(), 4).await;
    sleep(STALE / 2).await;
    a.tracker.revoked(&partitions[2..]).await;
    first_pass(&store).await;
    assert_eq!(statuses(&store, 0), [LedgerStatus::Unknown; 4]);
    assert_eq!(statuses(&store, 1), [LedgerStatus::Success; 4]);
    assert_eq!(statuses(&store, 2), [LedgerStatus::Received; 4]);
}

#[tokio::test(start_paused = true)]
async fn two_processes_at_once_settle_what_one_would() {
    let store = FakeStore::new();
    plant(&store, 0..500, LedgerStatus::Received);
    plant(&store, (0..500).step_by(3), LedgerStatus::Success);
    // One of them does not know yet that the other owns it, and goes on.
    let a = owner(&store, outbox(), 100).await;
    let b = owner(&store, outbox(), 300).await;
    take(&a, 100..320, 100).await;
    take(&b, 300..320, 200).await;
    commit(&b, 300, 310).await;
    first_pass(&store).await;
    let rows = store.summary();
    let of = |offset: usize| rows[offset].split_once(' ').unwrap().1;
    for offset in 0..500 {
        let expected = match offset {
            310..320 => "RECEIVED provisional",
            300..310 => "SUCCESS passed",
            _ if offset % 3 == 0 => "SUCCESS provisional",
            ..300 => "UNKNOWN passed",
            320.. => "FAILED provisional",
        };
        assert_eq!(of(offset), expected, "{offset}");
    }
}

#[tokio::test(start_paused = true)]
async fn very_many_rows_are_settled_page_by_page_and_not_looked_at_again() {
    let store = FakeStore::new();
    plant(&store, 0..50_000, LedgerStatus::Success);
    plant(&store, (0..49_000).step_by(100), LedgerStatus::Received);
    plant(&store, 20_000..20_300, LedgerStatus::Received);
    plant(&store, 48_990..48_999, LedgerStatus::Received);
    let ledger = owner(&store, outbox(), 48_995).await;
    take(&ledger, 48_997..48_998, 100).await;
    sleep(STALE + STALE / 5).await;
    let left = |status| statuses(&store, 0).iter().filter(|s| **s == status).count();
    assert_eq!(left(LedgerStatus::Received), 3, "48995 to 48997 are ours");
    assert_eq!(left(LedgerStatus::Failed), 1);
    assert_eq!(left(LedgerStatus::Unknown), 490 + 297 + 5);
    let pages = asked(&store, "received_page");
    assert!(pages.iter().all(|(_, rows)| *rows <= PAGE_ROWS));
    assert!((10..20).contains(&pages.len()), "{pages:?}");
    assert!(asked(&store, "settle").iter().all(|(_, rows)| *rows <= 10));
    // An hour later only the end is looked at.
    store.inner().asked.clear();
    sleep(Duration::from_secs(4000)).await;
    assert_eq!(asked(&store, "received_page"), [(48_995, PAGE_ROWS)]);
}

#[tokio::test(start_paused = true)]
async fn a_success_that_was_not_told_is_settled_soon() {
    let store = FakeStore::new();
    let ledger = owner(&store, only_success_passes(), 0).await;
    take(&ledger, 0..5, 100).await;
    commit(&ledger, 0, 5).await;
    first_pass(&store).await;
    assert_eq!(asked(&store, "received_page").len(), 1);
    store.set(Mood::RefusingSuccesses);
    take(&ledger, 5..10, 100).await;
    commit(&ledger, 5, 10).await;
    pass(&store, STALE / 2).await;
    assert_eq!(store.summary()[5..], lines(5..10, "RECEIVED provisional"));
    pass(&store, STALE).await;
    assert_eq!(store.summary(), lines(0..10, "SUCCESS passed"));
    assert_eq!(asked(&store, "settle"), [(5, 5)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_holds_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::new();
    let ledger = owner(&store, spilling(&folder), 0).await;
    take(&ledger, 0..50, 100).await;
    store.set(Mood::Down);
    ledger.tracker.failed(&[failed(7, 100)]).await.unwrap();
    commit(&ledger, 0, 40).await;
    // Another process, which the journal belongs to from now on.
    drop(ledger);
    let ledger = owner(&store, spilling(&folder), 40).await;
    first_pass(&store).await;
    assert_eq!(store.summary(), lines(0..50, "RECEIVED provisional"));
    store.set(Mood::Slow(Duration::from_millis(50)));
    let mut expected = lines(0..40, "SUCCESS passed");
    expected.extend(lines(40..50, "FAILED provisional"));
    until("written back, then settled", || store.summary() == expected).await;
    assert_eq!(asked(&store, "settle"), [(40, 10)]);
    drop(ledger);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_was_left_behind_is_taken_over_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = FakeStore::new();
    let settings = LedgerSettings {
        safeguard_stale: Some(Duration::from_millis(100)),
        ..spilling(&folder)
    };
    // It is busy with something else for now, and takes over nothing by itself.
    let next = start(&store, settings.clone()).await;
    let ledger = owner(&store, settings, 0).await;
    take(&ledger, 0..5, 100).await;
    store.set(Mood::Down);
    ledger.tracker.failed(&[failed(2, 100)]).await.unwrap();
    commit(&ledger, 0, 5).await;
    ledger.tracker.flush().await;
    drop(ledger);
    store.age(STALE);
    store.set(Mood::Up);
    assign(&next, orders(), 5).await;
    until("written back", || {
        store.summary() == lines(0..5, "SUCCESS passed")
    })
    .await;
    assert_eq!(asked(&store, "settle"), []);
}

#[tokio::test(start_paused = true)]
async fn while_the_database_is_in_trouble_nothing_is_asked_and_afterwards_it_goes_on() {
    let store = FakeStore::new();
    plant(&store, 0..4000, LedgerStatus::Received);
    let ledger = owner(&store, outbox(), 4000).await;
    until("in the middle", || asked(&store, "settle").len() > 200).await;
    store.set(Mood::Down);
    sleep(STALE).await;
    let settled = asked(&store, "settle").len();
    let tried = |store: &FakeStore| {
        let inner = store.inner();
        let ours = ["settle", "received_page"];
        inner
            .statements
            .iter()
            .filter(|name| ours.contains(name))
            .count()
    };
    let before = tried(&store);
    sleep(STALE).await;
    assert!(tried(&store) < before + 40, "it is not hammered");
    store.set(Mood::Up);
    until("settled", || {
        statuses(&store, 0)
            .iter()
            .all(|status| *status == LedgerStatus::Unknown)
    })
    .await;
    let more = asked(&store, "settle").len() - settled;
    assert!(more < 240, "what was settled is settled: {more}");
    drop(ledger);
}

#[tokio::test(start_paused = true)]
async fn a_revoke_ends_a_pass_at_once() {
    let store = FakeStore::new();
    plant(&store, 0..1000, LedgerStatus::Received);
    let ledger = owner(&store, outbox(), 1000).await;
    until("begun", || asked(&store, "settle").len() == 5).await;
    ledger.tracker.revoked(&[orders()]).await;
    pass(&store, STALE * 20).await;
    assert!(asked(&store, "settle").len() <= 6);
    assign(&ledger, orders(), 1000).await;
    first_pass(&store).await;
    assert_eq!(statuses(&store, 0), [LedgerStatus::Unknown; 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_database_is_asked_for_less() {
    let store = FakeStore::new();
    plant(&store, 0..3000, LedgerStatus::Success);
    plant(&store, 2990..3000, LedgerStatus::Received);
    store.set(Mood::Slow(Duration::from_millis(100)));
    let ledger = owner(&store, outbox(), 3000).await;
    first_pass(&store).await;
    let pages = asked(&store, "received_page");
    assert!(pages.last().unwrap().1 <= 100, "{pages:?}");
    assert_eq!(statuses(&store, 0)[2990..], [LedgerStatus::Unknown; 10]);
    drop(ledger);
}

/// Every row is stale all the time, and passes never end: whatever is settled here was worth waiting for.
#[tokio::test(start_paused = true)]
async fn nothing_in_flight_or_waiting_to_be_told_is_settled() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().unwrap();
        let store = FakeStore::new();
        let settings = LedgerSettings {
            safeguard_stale: Some(Duration::from_millis(80)),
            circuit_open: Duration::from_millis(300),
            ..spilling(&folder)
        };
        let ledger = owner(&store, settings, 0).await;
        let (mut committed, mut next) = (0, 0);
        for _ in 0..300 {
            let mood = match random.u32(..20) {
                0 => Mood::Down,
                1..5 => Mood::Slow(Duration::from_millis(random.u64(1..120))),
                _ => Mood::Up,
            };
            store.set(mood);
            let more = random.i64(0..15);
            take(&ledger, next..next + more, 100).await;
            next += more;
            store.age(Duration::from_secs(1));
            sleep(Duration::from_millis(random.u64(..40))).await;
            let passed = random.i64(committed..=next);
            commit(&ledger, committed, passed).await;
            committed = passed;
            sleep(Duration::from_millis(random.u64(..40))).await;
            if random.u32(..10) == 0 {
                // What was not passed is read again.
                assign(&ledger, orders(), committed).await;
                take(&ledger, committed..next, 100).await;
            }
        }
        store.set(Mood::Up);
        commit(&ledger, committed, next).await;
        until("told", || {
            statuses(&store, 0)
                .iter()
                .all(|status| *status == LedgerStatus::Success)
        })
        .await;
        assert_eq!(asked(&store, "settle"), [], "seed {seed}");
        assert!(asked(&store, "received_page").len() > 5, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_where_it_is_not_wanted() {
    let off = LedgerSettings {
        safeguard_stale: None,
        ..outbox()
    };
    let lightweight = LedgerSettings {
        strategy: Strategy::Lightweight,
        ..outbox()
    };
    for settings in [off, lightweight] {
        let store = FakeStore::new();
        plant(&store, 0..10, LedgerStatus::Received);
        plant(&store, 10..20, LedgerStatus::Success);
        let ledger = owner(&store, settings, 5).await;
        pass(&store, STALE * 1000).await;
        assert_eq!(store.inner().asked, []);
        drop(ledger);
    }
}
