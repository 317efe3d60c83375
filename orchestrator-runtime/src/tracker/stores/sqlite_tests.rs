//! Tests of the SQLite store against real files: it keeps the promises of `FailureStore`, as the store in memory
//! does, and no row is refused for its content.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use orchestrator_core::Record;
use proptest::prelude::*;
use sqlx::Row;
use tempfile::TempDir;

use super::super::super::fake_store::{FakeStore, failed, identity, orders};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

fn store_in(folder: &TempDir, table: &str) -> SqliteStore {
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    SqliteStore::new(&url, table, TIMEOUT).unwrap()
}

async fn ready() -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(&folder, "event_failures");
    store.prepare().await.unwrap();
    (folder, store)
}

fn row(offset: i64, fence: i64) -> LedgerRow {
    LedgerRow::failed(&failed(offset, fence), true)
}

impl SqliteStore {
    async fn texts(&self, sql: &str) -> Vec<String> {
        let mut lease = self.lease().await.unwrap();
        let rows = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&mut *lease.connection)
            .await;
        lease.answered();
        rows.unwrap()
    }

    /// As `FakeStore::summary`, with fence and whether it was resolved.
    async fn summary(&self) -> Vec<String> {
        self.texts(
            "SELECT source_offset || ' ' || status || iif(passed_at IS NULL, ' provisional', ' passed ' || passed_at) \
             || ' ' || fence || ' ' || attempts || iif(resolved_at IS NULL, '', ' resolved') \
             FROM event_failures ORDER BY source_offset",
        )
        .await
    }
}

#[tokio::test]
async fn a_row_is_stored_in_full() {
    let (_folder, store) = ready().await;
    store
        .upsert_failed(&identity(), &[row(7, 100)], 500)
        .await
        .unwrap();
    let mut lease = store.lease().await.unwrap();
    let stored = sqlx::query("SELECT * FROM event_failures")
        .fetch_one(&mut *lease.connection)
        .await
        .unwrap();
    lease.answered();
    for (column, expected) in [
        ("cluster_id", "c"),
        ("consumer_group", "g"),
        ("source_topic", "orders"),
        ("target_topic", "enriched"),
        ("status", "FAILED"),
        ("dedup_key", "orders-0-7"),
        ("error_class", "permanent"),
        ("error_message", "no such sku"),
        ("error_chain", "TransformError (transform): no such sku"),
    ] {
        assert_eq!(stored.get::<String, _>(column), expected, "{column}");
    }
    for (column, expected) in [
        ("source_partition", Some(0)),
        ("source_offset", Some(7)),
        ("record_timestamp_ms", Some(1)),
        ("attempts", Some(1)),
        ("dead_lettered", Some(0)),
        ("fence", Some(100)),
        ("passed_at", None),
        ("resolved_at", None),
        ("created_at", Some(500)),
        ("updated_at", Some(500)),
    ] {
        assert_eq!(stored.get::<Option<i64>, _>(column), expected, "{column}");
    }
    for (column, expected) in [
        ("message_key", &b"k"[..]),
        ("headers", b"[]"),
        ("payload", b"v"),
    ] {
        assert_eq!(stored.get::<Vec<u8>, _>(column), expected, "{column}");
    }
    assert_eq!(stored.get::<Option<String>, _>("origin_dedup_key"), None);
    assert_eq!(stored.len(), 23);
}

#[tokio::test]
async fn an_older_fence_never_overwrites() {
    let (_folder, store) = ready().await;
    store
        .upsert_failed(&identity(), &[row(1, 100)], 1)
        .await
        .unwrap();
    let mut older = row(1, 99);
    older.attempts = 9;
    store
        .upsert_failed(&identity(), &[older.clone()], 2)
        .await
        .unwrap();
    store
        .insert_received(&identity(), &[older], 2)
        .await
        .unwrap();
    assert_eq!(store.summary().await, ["1 FAILED provisional 100 1"]);
    // A repeat does not undo `passed_at`; a newer batch does.
    store
        .pass_failed(&identity(), &[orders().at(1)], 3)
        .await
        .unwrap();
    store
        .upsert_failed(&identity(), &[row(1, 100)], 4)
        .await
        .unwrap();
    assert_eq!(store.summary().await, ["1 FAILED passed 3 100 1"]);
    store
        .upsert_failed(&identity(), &[row(1, 101)], 5)
        .await
        .unwrap();
    assert_eq!(store.summary().await, ["1 FAILED provisional 101 1"]);
    assert_eq!(
        store
            .texts("SELECT created_at || ' ' || updated_at FROM event_failures")
            .await,
        ["1 5"]
    );
}

#[tokio::test]
async fn other_groups_partitions_and_topics_are_left_alone() {
    let (_folder, store) = ready().await;
    let other = LedgerIdentity {
        consumer_group: "other".into(),
        ..identity()
    };
    store
        .upsert_failed(&identity(), &[row(1, 1)], 1)
        .await
        .unwrap();
    store.upsert_failed(&other, &[row(1, 1)], 1).await.unwrap();
    store
        .succeed(&identity(), &[orders().at(1)], 2)
        .await
        .unwrap();
    assert_eq!(
        store
            .provisional(&identity(), &orders().at(0), 9)
            .await
            .unwrap(),
        [0i64; 0]
    );
    assert_eq!(
        store.provisional(&other, &orders().at(0), 9).await.unwrap(),
        [1]
    );
    let elsewhere = orchestrator_core::SourcePartition::new("orders", 1).at(0);
    assert_eq!(
        store.provisional(&other, &elsewhere, 9).await.unwrap(),
        [0i64; 0]
    );
}

#[tokio::test]
async fn as_many_rows_as_one_statement_takes() {
    let (_folder, store) = ready().await;
    let rows: Vec<_> = (0..store.rows_per_statement() as i64)
        .map(|offset| row(offset, 1))
        .collect();
    let positions: Vec<_> = rows.iter().map(|row| row.position.clone()).collect();
    let ranges: Vec<_> = positions
        .iter()
        .map(|at| OffsetRange {
            partition: at.partition.clone(),
            from: at.offset,
            next: at.offset + 1,
        })
        .collect();
    store.insert_received(&identity(), &rows, 1).await.unwrap();
    store.upsert_failed(&identity(), &rows, 1).await.unwrap();
    let found = store
        .provisional(&identity(), &orders().at(0), 100_000)
        .await
        .unwrap();
    assert_eq!(found.len(), rows.len());
    assert_eq!(
        store
            .provisional(&identity(), &orders().at(2), 3)
            .await
            .unwrap(),
        [2, 3, 4]
    );
    store
        .pass_failed(&identity(), &positions[..10], 1)
        .await
        .unwrap();
    store
        .succeed(&identity(), &positions[10..], 1)
        .await
        .unwrap();
    store.succeed_ranges(&identity(), &ranges, 1).await.unwrap();
    let counts = "SELECT status || ' ' || count(*) FROM event_failures GROUP BY status ORDER BY 1";
    assert_eq!(store.texts(counts).await, ["FAILED 10", "SUCCESS 490"]);
}

#[tokio::test]
async fn statements_find_their_rows_by_index() {
    let (_folder, store) = ready().await;
    let ranges = [OffsetRange {
        partition: orders(),
        from: 0,
        next: 9,
    }];
    let ends = ranges.iter().map(|r| {
        (
            r.partition.topic.as_str(),
            r.partition.partition,
            r.from,
            r.next,
        )
    });
    let update = store.update_succeeded(&identity(), ends, 1).into_string();
    let mut lease = store.lease().await.unwrap();
    let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {update}")))
        .fetch_all(&mut *lease.connection)
        .await
        .unwrap();
    lease.answered();
    let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
    assert!(
        plan.iter()
            .any(|line| line.starts_with("SEARCH t USING INDEX")),
        "{plan:#?}"
    );
}

#[tokio::test]
async fn the_table_may_have_another_name_and_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    for table in ["event_failures", "order"] {
        let store = store_in(&folder, table);
        store.prepare().await.unwrap();
        store.prepare().await.unwrap();
        store
            .upsert_failed(&identity(), &[row(1, 1)], 1)
            .await
            .unwrap();
        assert_eq!(
            store
                .texts(&format!("SELECT status FROM \"{table}\""))
                .await,
            ["FAILED"]
        );
    }
    let tables = store_in(&folder, "order")
        .texts("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .await;
    assert_eq!(
        tables,
        [
            "_orchestrator_migrations",
            "_orchestrator_migrations_order",
            "event_failures",
            "order"
        ]
    );
}

#[tokio::test]
async fn several_processes_may_start_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let stores: Vec<_> = (0..8)
        .map(|_| Arc::new(store_in(&folder, "event_failures")))
        .collect();
    let tasks: Vec<_> = stores
        .iter()
        .cloned()
        .map(|store| tokio::spawn(async move { store.prepare().await }))
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(stores[0].texts("PRAGMA journal_mode").await, ["wal"]);
}

#[tokio::test]
async fn errors_say_what_to_do_and_keep_the_url_to_themselves() {
    let refused = |url: &str| SqliteStore::new(url, "event_failures", TIMEOUT).unwrap_err();
    for url in [
        "sqlite://x?mode=s3cret",
        "sqlite://x?s3cret=1",
        "sqlite::memory:",
    ] {
        let error = refused(url);
        assert!(error.message.contains("ORCH_DB_URL"), "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
    }
    let store = SqliteStore::new(
        "sqlite:///no/such/folder/s3cret.db",
        "event_failures",
        TIMEOUT,
    )
    .unwrap();
    let error = store.prepare().await.unwrap_err();
    assert_eq!(error.class, StoreErrorClass::Unavailable);
    assert!(
        error.message.contains("folder of ORCH_DB_URL") && !error.message.contains("s3cret"),
        "{error}"
    );

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ledger.db"), vec![b'x'; 4096]).unwrap();
    let error = store_in(&folder, "event_failures")
        .prepare()
        .await
        .unwrap_err();
    assert_eq!(error.class, StoreErrorClass::Unavailable);
    assert!(error.message.contains("move the file"), "{error}");
}

fn any_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(vec![0; 3])
    ])
}

#[derive(Clone, Debug)]
enum Op {
    Failed(i64, i64),
    Received(i64, i64),
    Pass(i64),
    Succeed(i64),
    SucceedRange(i64, i64),
}

fn op() -> impl Strategy<Value = Op> {
    let (offset, fence) = (0..6i64, 0..4i64);
    prop_oneof![
        (offset.clone(), fence.clone()).prop_map(|(offset, fence)| Op::Failed(offset, fence)),
        (offset.clone(), fence).prop_map(|(offset, fence)| Op::Received(offset, fence)),
        offset.clone().prop_map(Op::Pass),
        offset.clone().prop_map(Op::Succeed),
        (offset.clone(), offset).prop_map(|(from, next)| Op::SucceedRange(from, next)),
    ]
}

async fn apply(store: &dyn FailureStore, op: &Op, now_ms: i64) {
    let ledger = identity();
    match *op {
        Op::Failed(offset, fence) => {
            store
                .upsert_failed(&ledger, &[row(offset, fence)], now_ms)
                .await
        }
        Op::Received(offset, fence) => {
            store
                .insert_received(&ledger, &[row(offset, fence)], now_ms)
                .await
        }
        Op::Pass(offset) => {
            store
                .pass_failed(&ledger, &[orders().at(offset)], now_ms)
                .await
        }
        Op::Succeed(offset) => store.succeed(&ledger, &[orders().at(offset)], now_ms).await,
        Op::SucceedRange(from, next) => {
            let range = OffsetRange {
                partition: orders(),
                from,
                next,
            };
            store.succeed_ranges(&ledger, &[range], now_ms).await
        }
    }
    .unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn any_bytes_are_stored_as_they_are() {
    let runtime = runtime();
    let (_folder, store) = runtime.block_on(ready());
    let next = std::cell::Cell::new(0);
    let record = (
        any_bytes(),
        any_bytes(),
        any::<String>(),
        any_bytes(),
        any::<String>(),
        any::<Option<i64>>(),
    );
    proptest!(ProptestConfig::with_cases(64), |((key, value, name, header, message, timestamp) in record)| {
        let offset = next.get();
        next.set(offset + 1);
        let mut record = Record::builder("orders", 0, offset);
        if let Some(key) = &key { record = record.key(key.clone()); }
        if let Some(value) = &value { record = record.value(value.clone()); }
        if let Some(header) = header { record = record.header(name, header); }
        if let Some(timestamp) = timestamp { record = record.timestamp_ms(timestamp); }
        let mut failed = failed(offset, 1);
        failed.record = record.build();
        failed.failure.message = message;
        let row = LedgerRow::failed(&failed, true);
        let written = runtime.block_on(store.upsert_failed(&identity(), std::slice::from_ref(&row), 1));
        prop_assert_eq!(written, Ok(()));
        let stored = runtime.block_on(async {
            let mut lease = store.lease().await.unwrap();
            let sql = "SELECT message_key, payload, headers, error_message FROM event_failures WHERE source_offset = ?";
            let stored = sqlx::query(sql).bind(offset).fetch_one(&mut *lease.connection).await.unwrap();
            lease.answered();
            stored
        });
        prop_assert_eq!(stored.get::<Option<Vec<u8>>, _>(0), key);
        prop_assert_eq!(stored.get::<Option<Vec<u8>>, _>(1), value);
        prop_assert_eq!(stored.get::<Vec<u8>, _>(2), row.headers.to_vec());
        prop_assert_eq!(stored.get::<String, _>(3), row.error.unwrap().message);
    });
}

#[test]
fn it_does_as_the_store_in_memory_does() {
    let runtime = runtime();
    let (_folder, store) = runtime.block_on(ready());
    proptest!(ProptestConfig::with_cases(48), |(ops in prop::collection::vec(op(), 1..20))| {
        let (stored, expected) = runtime.block_on(async {
            store.texts("DELETE FROM event_failures").await;
            let fake = FakeStore::new();
            for (at, op) in ops.iter().enumerate() {
                apply(&store, op, at as i64 + 1).await;
                apply(&*fake, op, at as i64 + 1).await;
            }
            let expected: Vec<String> = fake.inner().rows.iter().map(|((position, _), stored)| {
                let passed = stored.row.passed_at_ms.map_or(" provisional".into(), |at| format!(" passed {at}"));
                let resolved = if stored.resolved { " resolved" } else { "" };
                let (status, fence, attempts) = (stored.status.as_str(), stored.row.fence, stored.row.attempts);
                format!("{} {status}{passed} {fence} {attempts}{resolved}", position.offset)
            }).collect();
            (store.summary().await, expected)
        });
        prop_assert_eq!(stored, expected);
    });
}
