//! Tests of the retention, over a store in memory in virtual time, and of the whole upkeep on SQLite.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use orchestrator_core::Record;
use orchestrator_core::ledger_row::{LedgerRow, LedgerStatus};

use super::super::fake_store::{FakeStore, Mood, StoredRow, identity, orders};
use super::super::{Ledger, LedgerPlan, LedgerSettings};
use super::*;
use crate::config::Strategy;

const HOUR: i64 = 3_600_000;
const WEEK: i64 = 168 * HOUR;

async fn start(store: &Arc<FakeStore>, strategy: Strategy) -> Ledger {
    let settings = LedgerSettings {
        strategy,
        safeguard_stale: None,
        ..LedgerSettings::default()
    };
    let plan = LedgerPlan::with_store(store.clone(), settings).unwrap();
    plan.start(identity()).await
}

/// Rows created so many milliseconds ago.
fn plant(store: &FakeStore, offsets: std::ops::Range<i64>, status: LedgerStatus, ago_ms: i64) {
    for offset in offsets {
        let record = Record::builder("orders", 0, offset).timestamp_ms(1).build();
        let row = StoredRow {
            stale: false,
            status,
            row: LedgerRow::received(&record, 100, false),
            resolved: false,
            created_ms: now_ms() - ago_ms,
            updated_ms: now_ms(),
        };
        store.inner().rows.insert((orders().at(offset), 1), row);
    }
}

fn offsets(store: &FakeStore) -> Vec<i64> {
    let inner = store.inner();
    inner
        .rows
        .keys()
        .map(|(position, _)| position.offset)
        .collect()
}

fn pruned(store: &FakeStore) -> Vec<(i64, usize)> {
    let inner = store.inner();
    let asked = inner.asked.iter().filter(|(name, ..)| *name == "prune");
    asked.map(|(_, from, rows)| (*from, *rows)).collect()
}

#[tokio::test(start_paused = true)]
async fn old_successes_go_a_few_at_a_time_and_all_else_stays() {
    for strategy in [Strategy::Outbox, Strategy::Reliable, Strategy::Lightweight] {
        let store = FakeStore::new();
        plant(&store, 0..95, LedgerStatus::Success, WEEK + HOUR);
        plant(&store, 100..103, LedgerStatus::Failed, WEEK * 9);
        plant(&store, 103..106, LedgerStatus::Unknown, WEEK * 9);
        plant(&store, 106..109, LedgerStatus::Received, WEEK * 9);
        plant(&store, 109..112, LedgerStatus::Success, WEEK - HOUR);
        let ledger = start(&store, strategy).await;
        sleep(FIRST_AFTER * 2).await;
        assert_eq!(offsets(&store), (100..112).collect::<Vec<_>>());
        let first = pruned(&store);
        assert!((10..20).contains(&first.len()), "{first:?}");
        assert!(first.iter().all(|(from, rows)| *from == 0 && *rows <= 10));
        // Later only what has become old since.
        store.inner().asked.clear();
        plant(&store, 0..1, LedgerStatus::Success, WEEK + HOUR);
        sleep(EVERY * 10).await;
        let later = pruned(&store);
        assert!(later.iter().all(|(from, _)| *from > now_ms() - WEEK - HOUR));
        assert_eq!(offsets(&store)[0], 0);
        // But once a day all of it.
        sleep(ALL_AGAIN_AFTER).await;
        assert_eq!(offsets(&store)[0], 100);
        drop(ledger);
    }
}

#[tokio::test(start_paused = true)]
async fn two_processes_delete_at_once_and_trouble_only_delays() {
    let store = FakeStore::new();
    plant(&store, 0..2000, LedgerStatus::Success, WEEK + HOUR);
    let ledgers = [
        start(&store, Strategy::Outbox).await,
        start(&store, Strategy::Lightweight).await,
    ];
    while pruned(&store).len() < 50 {
        sleep(PAUSE).await;
    }
    store.set(Mood::Down);
    sleep(EVERY).await;
    let before = store.inner().statements.len();
    assert!(!offsets(&store).is_empty());
    sleep(EVERY).await;
    let tried = store.inner().statements.len() - before;
    assert!(tried < 25, "it is not hammered: {tried}");
    store.set(Mood::Up);
    sleep(EVERY).await;
    assert!(offsets(&store).is_empty());
    drop(ledgers);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_nothing_is_deleted() {
    let store = FakeStore::new();
    plant(&store, 0..20, LedgerStatus::Success, WEEK * 100);
    let settings = LedgerSettings {
        strategy: Strategy::Outbox,
        safeguard_stale: None,
        retention: None,
        ..LedgerSettings::default()
    };
    let plan = LedgerPlan::with_store(store.clone(), settings).unwrap();
    let ledger = plan.start(identity()).await;
    sleep(EVERY * 100).await;
    assert_eq!(store.inner().asked, []);
    drop(ledger);
}

#[test]
fn what_one_statement_looks_through_adapts() {
    let mut pruned = Pruned::nothing();
    let all = pruned.next(WEEK).unwrap();
    assert_eq!(all, 0..WEEK);
    pruned.too_slow(&all);
    let some = pruned.next(WEEK).unwrap();
    assert_eq!(some, 0..WEEK / 8);
    pruned.done(&some);
    let more = pruned.next(WEEK).unwrap();
    assert_eq!(more, WEEK / 8..WEEK * 3 / 8);
    pruned.done(&more);
    pruned.done(&pruned.next(WEEK).unwrap());
    pruned.done(&pruned.next(WEEK).unwrap());
    assert_eq!(pruned.next(WEEK), None);
    assert_eq!(pruned.next(WEEK + 5), Some(WEEK..WEEK + 5));
    pruned.too_slow(&(0..10));
    assert_eq!(pruned.next(WEEK * 9), Some(WEEK..WEEK + LEAST_SPAN));
}

#[cfg(feature = "sqlite")]
mod on_sqlite {
    use orchestrator_core::{FailureTracker, OffsetRange, Passed, Taken};
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    use sqlx::{AssertSqlSafe, Connection};

    use super::super::super::built_in::{self, BuiltIn};
    use super::super::super::fake_store::failed;
    use super::super::super::stores;
    use super::*;
    use crate::metrics::LedgerMetrics;

    /// A process that owns `orders-0` from `offset` on.
    async fn owner(settings: &LedgerSettings, offset: i64) -> BuiltIn {
        let (store, metrics) = (stores::open(settings).unwrap(), LedgerMetrics::new("g"));
        let (ledger, _) = built_in::start(store, settings, metrics, identity()).await;
        ledger.assigned(&[orders().at(offset)]).await.unwrap();
        ledger
    }

    async fn take(ledger: &BuiltIn, offsets: std::ops::Range<i64>) {
        let record = |offset| Record::builder("orders", 0, offset).timestamp_ms(1).build();
        let records = offsets.map(record).collect();
        ledger
            .received(&[Taken {
                records,
                fence: 100,
            }])
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn stale_rows_are_settled_and_old_successes_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.db");
        let settings = LedgerSettings {
            strategy: Strategy::Outbox,
            url: Some(format!("sqlite://{}", file.display())),
            timeout: Duration::from_secs(5),
            batch_budget: Duration::from_secs(10),
            safeguard_stale: Some(Duration::from_millis(100)),
            only_success_passes: true,
            ..LedgerSettings::default()
        };
        let query = async |sql: &str| -> Vec<String> {
            let options = SqliteConnectOptions::new().filename(&file);
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
            query.fetch_all(&mut connection).await.unwrap()
        };
        let rows = "SELECT source_offset || ' ' || status || ' ' || coalesce(error_class, 'well') FROM event_failures";

        let before = owner(&settings, 0).await;
        take(&before, 0..3000).await;
        drop(before);
        let next = owner(&settings, 2500).await;
        take(&next, 2500..2900).await;
        let expected: Vec<String> = (0..3000)
            .map(|offset| match offset {
                0..2500 => format!("{offset} SUCCESS well"),
                2500..2900 => format!("{offset} RECEIVED well"),
                _ => format!("{offset} FAILED stale"),
            })
            .collect();
        let until = Instant::now() + Duration::from_secs(30);
        while query(rows).await != expected {
            assert!(Instant::now() < until, "never settled");
            sleep(Duration::from_millis(20)).await;
        }

        let failures = [failed(2500, 100)];
        next.failed(&failures).await.unwrap();
        let range = OffsetRange {
            partition: orders(),
            from: 2500,
            next: 2900,
        };
        let passed = Passed {
            ranges: vec![range],
            failures: vec![orders().at(2500)],
        };
        next.committed(&passed).await.unwrap();
        next.flush().await;
        let keep = Duration::from_millis(1);
        sleep(keep * 5).await;
        let mut pace = Pace::gentle(1000, settings.timeout);
        let (retention, mut pruned) = (Retention { keep }, Pruned::nothing());
        let done = next.state.prune(&retention, &mut pruned, &mut pace).await;
        assert!(done.unwrap());
        let mut expected = vec!["2500 FAILED permanent".to_owned()];
        expected.extend((2900..3000).map(|offset| format!("{offset} FAILED stale")));
        assert_eq!(query(rows).await, expected);
    }
}
