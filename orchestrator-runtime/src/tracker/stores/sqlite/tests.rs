//! Tests of the SQLite store against real files: it keeps the promises of `FailureStore`, in their
//! plainest form.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use sqlx::Row;
use tempfile::TempDir;

use super::super::super::fake_store::{failed, identity, orders};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

fn store_in(folder: &TempDir, table: &str) -> SqliteStore {
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    SqliteStore::new(&url, table, TIMEOUT).unwrap()
}

pub(super) async fn ready() -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(&folder, "event_failures");
    store.prepare().await.unwrap();
    (folder, store)
}

pub(super) fn row(offset: i64, fence: i64) -> LedgerRow {
    LedgerRow::failed(&failed(offset, fence), true)
}

pub(super) fn range(from: i64, next: i64) -> OffsetRange {
    OffsetRange {
        partition: orders(),
        from,
        next,
    }
}

async fn provisional(
    store: &SqliteStore,
    ledger: &LedgerIdentity,
    from: SourcePosition,
    limit: usize,
) -> Vec<i64> {
    let found = store.provisional(ledger, &from, limit).await.unwrap();
    found.into_iter().map(|row| row.offset).collect()
}

impl SqliteStore {
    pub(super) async fn texts(&self, sql: &str) -> Vec<String> {
        let mut lease = self.lease().await.unwrap();
        let rows = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&mut *lease.connection)
            .await;
        lease.answered();
        rows.unwrap()
    }

    /// As `FakeStore::summary`, with fence and whether it was resolved.
    pub(super) async fn summary(&self) -> Vec<String> {
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
        .pass_failed(&identity(), &[orders().at(1)], 103)
        .await
        .unwrap();
    store
        .upsert_failed(&identity(), &[row(1, 100)], 4)
        .await
        .unwrap();
    assert_eq!(store.summary().await, ["1 FAILED passed 103 100 1"]);
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
    store.succeed(&identity(), &[range(1, 2)], 2).await.unwrap();
    assert_eq!(
        provisional(&store, &identity(), orders().at(0), 9).await,
        [0i64; 0]
    );
    assert_eq!(provisional(&store, &other, orders().at(0), 9).await, [1]);
    let elsewhere = orchestrator_core::SourcePartition::new("orders", 1).at(0);
    assert_eq!(provisional(&store, &other, elsewhere, 9).await, [0i64; 0]);
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
        .map(|at| range(at.offset, at.offset + 1))
        .collect();
    store.insert_received(&identity(), &rows, 1).await.unwrap();
    store.upsert_failed(&identity(), &rows, 1).await.unwrap();
    let found = store
        .provisional(&identity(), &orders().at(0), 100_000)
        .await
        .unwrap();
    assert_eq!(found.len(), rows.len());
    let found = provisional(&store, &identity(), orders().at(2), 3).await;
    assert_eq!(found, [2, 3, 4]);
    store
        .pass_failed(&identity(), &positions[..10], 1)
        .await
        .unwrap();
    store.succeed(&identity(), &ranges, 1).await.unwrap();
    let counts = "SELECT status || ' ' || count(*) FROM event_failures GROUP BY status ORDER BY 1";
    assert_eq!(store.texts(counts).await, ["FAILED 10", "SUCCESS 490"]);
}

#[tokio::test]
async fn statements_find_their_rows_by_index() {
    let (_folder, store) = ready().await;
    let ranges = [range(0, 9)];
    let update = store
        .statements(&identity(), 1)
        .succeed(&ranges)
        .into_string();
    let mut lease = store.lease().await.unwrap();
    let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {update}")))
        .fetch_all(&mut *lease.connection)
        .await
        .unwrap();
    lease.answered();
    let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
    assert!(
        plan.iter().any(|line| line.starts_with("SEARCH t USING INDEX") && line.contains("source_offset>")),
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

#[tokio::test]
async fn a_connection_that_was_given_up_is_never_used_again() {
    let (_folder, store) = ready().await;
    let mark = "CREATE TEMP TABLE mark (x)";
    let marked = "SELECT name FROM temp.sqlite_master";
    store.texts(mark).await;
    assert_eq!(
        store.texts(marked).await,
        ["mark"],
        "one connection serves all statements"
    );
    let given_up = store.lease().await.unwrap();
    drop(given_up);
    assert_eq!(store.texts(marked).await, [""; 0]);
}
