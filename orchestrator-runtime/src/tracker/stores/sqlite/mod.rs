//! The ledger in a SQLite file: one connection, since SQLite has one writer. Called through the guard, which times
//! statements out. It must never wait without bound, and never show the URL.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, SourcePosition, StoreError, StoreErrorClass,
    StoreFuture, TrackerError,
};
use sqlx::migrate::{Migration, Migrator};
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::query_builder::QueryBuilder;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Pool, SqlSafeStr, Sqlite};
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
        let mut lease = self.lease().await?;
        let mut query = query();
        // Its text depends on the number of rows: not worth a place in the cache.
        let result = query
            .build()
            .persistent(false)
            .execute(&mut *lease.connection)
            .await;
        lease.answered();
        result.map(drop).map_err(classified)
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
        positions: &'a [SourcePosition],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statement = move || self.statements(ledger, now_ms).succeed(positions);
        Box::pin(self.execute(positions.len(), statement))
    }

    fn succeed_ranges<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statement = move || self.statements(ledger, now_ms).succeed_ranges(ranges);
        Box::pin(self.execute(ranges.len(), statement))
    }

    fn provisional<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<i64>> {
        Box::pin(async move {
            let mut lease = self.lease().await?;
            let mut query = self.statements(ledger, 0).provisional(from, limit);
            let offsets = query
                .build_query_scalar()
                .fetch_all(&mut *lease.connection)
                .await;
            lease.answered();
            offsets.map_err(classified)
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
mod prop_tests;
#[cfg(test)]
mod tests;
