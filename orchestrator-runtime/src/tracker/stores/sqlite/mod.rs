//! The ledger in a SQLite file: one connection, since SQLite has one writer. Called through the guard, which times
//! statements out. It must never wait without bound, and never show the URL.

use std::borrow::Cow;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, Provisional, ReceivedPage, ReceivedRow, Settlement,
    SourcePosition, StoreError, StoreErrorClass, StoreFuture, TrackerError,
};
use sqlx::migrate::{Migration, Migrator};
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::query_builder::QueryBuilder;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, FromRow, Pool, SqlSafeStr, Sqlite};
use tokio::time::sleep;

use super::TableName;
use error::classified;
use statements::Statements;

mod error;
mod statements;

/// SQLite takes 32,766 parameters a statement; a row has 22.
const ROWS_PER_STATEMENT: usize = 500;

/// Several processes that start on a new file at once get in each other's way: turning WAL on needs the file for
/// oneself, and SQLite does not wait for that.
const PREPARE_TRIES: u32 = 10;
const PREPARE_PAUSE: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub struct SqliteStore {
    pool: Pool<Sqlite>,
    table: TableName,
    migrator: Migrator,
}

impl SqliteStore {
    /// A store in the file that `url` names, in the table `table`. Nothing is opened yet.
    pub fn new(url: &str, table: &str, timeout: Duration) -> Result<Self, TrackerError> {
        let table = TableName::parse(table)?;
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(TrackerError {
                message: "ORCH_DB_URL names an in-memory SQLite database, which would be lost with the process: \
                          name a file, or set ORCH_DB_STRATEGY=NONE"
                    .to_owned(),
            });
        }
        // sqlx's own error would quote parts of the URL.
        let options = SqliteConnectOptions::from_str(url).map_err(|_| TrackerError {
            message:
                "ORCH_DB_URL is not a SQLite URL: it should look like sqlite://path/to/ledger.db"
                    .to_owned(),
        })?;
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            // SQLite itself gives up on a lock before the statement is timed out and its connection thrown away.
            .busy_timeout(timeout.mul_f32(0.8))
            .disable_statement_logging();
        let pool = PoolOptions::new()
            .max_connections(1)
            .acquire_timeout(timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            migrator: migrator(&table),
            table,
        })
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let mut lease = self.lease().await?;
        let result = async {
            // One transaction round all of it, begun as a writer: two processes never migrate at the same time.
            let mut transaction = lease.connection.begin_with("BEGIN IMMEDIATE").await?;
            self.migrator
                .run_direct(None, &mut *transaction, false)
                .await?;
            transaction.commit().await
        };
        let result = result.await;
        lease.answered();
        result.map_err(classified)
    }

    fn statements<'a>(&'a self, ledger: &'a LedgerIdentity, now_ms: i64) -> Statements<'a> {
        Statements {
            table: &self.table,
            ledger,
            now_ms,
        }
    }

    /// Executes a statement on `rows` rows, if there are any.
    async fn execute(
        &self,
        rows: usize,
        query: impl FnOnce() -> QueryBuilder<Sqlite>,
    ) -> Result<(), StoreError> {
        if rows == 0 {
            return Ok(());
        }
        self.run(query()).await.map(drop)
    }

    /// Executes a statement and gives the number of rows it changed.
    async fn run(&self, mut query: QueryBuilder<Sqlite>) -> Result<u64, StoreError> {
        let mut lease = self.lease().await?;
        // Its text depends on the number of rows: not worth a place in the cache.
        let result = query
            .build()
            .persistent(false)
            .execute(&mut *lease.connection)
            .await;
        lease.answered();
        result.map(|done| done.rows_affected()).map_err(classified)
    }

    async fn fetch<T>(&self, mut query: QueryBuilder<Sqlite>) -> Result<Vec<T>, StoreError>
    where
        T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        let mut lease = self.lease().await?;
        let rows = query
            .build_query_as()
            .fetch_all(&mut *lease.connection)
            .await;
        lease.answered();
        rows.map_err(classified)
    }

    async fn lease(&self) -> Result<Lease, StoreError> {
        let connection = self.pool.acquire().await.map_err(classified)?;
        Ok(Lease {
            connection,
            answered: false,
        })
    }
}

impl FailureStore for SqliteStore {
    fn prepare(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            for _ in 1..PREPARE_TRIES {
                match self.migrate().await {
                    Err(error) if error.class == StoreErrorClass::Timeout => {
                        sleep(PREPARE_PAUSE).await
                    }
                    result => return result,
                }
            }
            self.migrate().await
        })
    }

    fn rows_per_statement(&self) -> usize {
        ROWS_PER_STATEMENT
    }

    fn insert_received<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statement = move || self.statements(ledger, now_ms).insert_received(rows);
        Box::pin(self.execute(rows.len(), statement))
    }

    fn upsert_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statement = move || self.statements(ledger, now_ms).upsert_failed(rows);
        Box::pin(self.execute(rows.len(), statement))
    }

    fn pass_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statement = move || self.statements(ledger, now_ms).pass_failed(positions);
        Box::pin(self.execute(positions.len(), statement))
    }

    fn succeed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statement = move || self.statements(ledger, now_ms).succeed(ranges);
        Box::pin(self.execute(ranges.len(), statement))
    }

    fn provisional<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Provisional>> {
        Box::pin(async move {
            let query = self.statements(ledger, 0).provisional(from, limit);
            let rows: Vec<(i64, i64)> = self.fetch(query).await?;
            let row = |(offset, fence)| Provisional { offset, fence };
            Ok(rows.into_iter().map(row).collect())
        })
    }

    fn received_page<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, ReceivedPage> {
        Box::pin(async move {
            let query = self.statements(ledger, 0).page(from, limit);
            let page: Vec<(i64, bool, i64)> = self.fetch(query).await?;
            let last = page.last().filter(|_| page.len() == limit);
            let next = last.map(|(offset, ..)| offset + 1);
            let received = page.into_iter().filter(|(_, is_received, _)| *is_received);
            let rows = received.map(|(offset, _, updated_at_ms)| ReceivedRow {
                offset,
                updated_at_ms,
            });
            Ok(ReceivedPage {
                rows: rows.collect(),
                next,
            })
        })
    }

    fn settle<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        settlement: Settlement,
        before_ms: i64,
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statement = move || {
            self.statements(ledger, now_ms)
                .settle(positions, settlement, before_ms)
        };
        Box::pin(self.execute(positions.len(), statement))
    }

    fn prune<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        created_ms: Range<i64>,
        limit: usize,
    ) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            let query = self.statements(ledger, 0).prune(created_ms, limit);
            self.run(query).await
        })
    }
}

/// A connection for one statement. One that was given up (its future was dropped) is closed, never used again.
struct Lease {
    connection: PoolConnection<Sqlite>,
    answered: bool,
}

impl Lease {
    fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.close_on_drop();
        }
    }
}

/// The migrations, with the names of our tables in them.
fn migrator(table: &TableName) -> Migrator {
    let embedded = sqlx::migrate!("../migrations/sqlite");
    let named = embedded.iter().map(|migration| Migration {
        sql: AssertSqlSafe(
            migration
                .sql
                .as_str()
                .replace("event_failures", table.as_str()),
        )
        .into_sql_str(),
        ..migration.clone()
    });
    let mut migrator = Migrator::with_migrations(named.collect());
    migrator.dangerous_set_table_name(Cow::Owned(table.migrations()));
    // During a rolling update an older program meets the table of a newer one: columns are only ever added.
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
mod tests;
