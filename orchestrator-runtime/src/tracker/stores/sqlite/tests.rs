//! Tests of the SQLite store against real files: every case of the conformance suite, and what only SQLite has.
#![allow(clippy::unwrap_used)]

use sqlx::Row;
use tempfile::TempDir;

use super::super::super::fake_store::identity;
use super::super::conformance::{Harness, Stored, TABLE, conformance, range};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

conformance!(Files);

#[cfg(feature = "test-faults")]
mod planted {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::super::conformance::fences::an_older_fence_never_overwrites;
    use super::Files;
    use crate::planted::{Bug, plant};

    #[test]
    fn an_older_row_that_overwrites_is_found() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        plant(Some(Bug::OlderRowOverwrites));
        let test = an_older_fence_never_overwrites::<Files>();
        let found = catch_unwind(AssertUnwindSafe(|| runtime.block_on(test)));
        plant(None);
        assert!(found.is_err());
    }
}

/// A folder with a database file.
struct Files(TempDir);

impl Harness for Files {
    type Store = SqliteStore;

    async fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn store(&self, table: &str) -> SqliteStore {
        let url = format!("sqlite://{}", self.0.path().join("ledger.db").display());
        SqliteStore::new(&url, table, TIMEOUT).unwrap()
    }

    async fn stored(&self, table: &str) -> Vec<Stored> {
        let sql = format!("SELECT * FROM \"{table}\"");
        let store = self.store(table);
        let mut lease = store.lease().await.unwrap();
        let rows = sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(&mut *lease.connection)
            .await;
        lease.answered();
        rows.unwrap()
    }
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
}

#[tokio::test]
async fn statements_find_their_rows_by_index() {
    let (_files, store) = Files::ready().await;
    let ranges = [range(0, 9)];
    let identity = identity();
    let statements = store.statements(&identity, 1);
    let succeed = statements.succeed(&ranges).into_string();
    let prune = statements.prune(0..9, 10).into_string();
    for (statement, by) in [
        (succeed, "source_offset>"),
        (prune, "(created_at>? AND created_at<?)"),
    ] {
        let mut lease = store.lease().await.unwrap();
        let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")))
            .fetch_all(&mut *lease.connection)
            .await
            .unwrap();
        lease.answered();
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let by_index = |line: &String| line.contains("USING INDEX") && line.contains(by);
        assert!(plan.iter().any(by_index), "{plan:#?}");
        assert!(
            !plan.iter().any(|line| line.contains("TEMP B-TREE")),
            "{plan:#?}"
        );
    }
}

#[tokio::test]
async fn each_table_has_its_migrations() {
    let files = Files::new().await;
    for table in [TABLE, "order"] {
        files.store(table).prepare().await.unwrap();
    }
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
    let expected = [
        "_orchestrator_migrations",
        "_orchestrator_migrations_order",
        "event_failures",
        "order",
    ];
    assert_eq!(files.store("order").texts(tables).await, expected);
}

#[tokio::test]
async fn readers_do_not_stop_the_writer() {
    let (_files, store) = Files::ready().await;
    assert_eq!(store.texts("PRAGMA journal_mode").await, ["wal"]);
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
    let error = Files(folder).store(TABLE).prepare().await.unwrap_err();
    assert_eq!(error.class, StoreErrorClass::Unavailable);
    assert!(error.message.contains("move the file"), "{error}");
}

#[tokio::test]
async fn a_connection_that_was_given_up_is_never_used_again() {
    let (_files, store) = Files::ready().await;
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
