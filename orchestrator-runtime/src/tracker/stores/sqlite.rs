//! The ledger in a SQLite file: one connection, since SQLite has one writer. Called through the guard, which times
//! statements out. It must never wait without bound, and never show the URL.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use orchestrator_core::ledger_row::{LedgerRow, LedgerStatus};
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, SourcePosition, StoreError, StoreErrorClass,
    StoreFuture, TrackerError,
};
use sqlx::migrate::{Migration, Migrator};
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::query_builder::{QueryBuilder, Separated};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Pool, SqlSafeStr, Sqlite};

use super::TableName;

/// SQLite takes 32,766 parameters a statement; a row has 22.
const ROWS_PER_STATEMENT: usize = 500;

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

    async fn execute(&self, mut query: QueryBuilder<Sqlite>) -> Result<(), StoreError> {
        let mut lease = self.lease().await?;
        let query = query.build().persistent(false);
        let result = query.execute(&mut *lease.connection).await;
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

    fn insert(
        &self,
        ledger: &LedgerIdentity,
        status: LedgerStatus,
        rows: &[LedgerRow],
        now_ms: i64,
        on_conflict: &str,
    ) -> QueryBuilder<Sqlite> {
        let table = self.table.as_str();
        let mut query = QueryBuilder::new(format!("INSERT INTO \"{table}\" ({COLUMNS}) "));
        query.push_values(rows, |row, value| bind(row, value, ledger, status, now_ms));
        query.push(format!(
            " ON CONFLICT (cluster_id, consumer_group, source_topic, source_partition, source_offset, \
             record_timestamp_ms) DO UPDATE SET {on_conflict}"
        ));
        query
    }

    /// `UPDATE .. SET set WHERE condition` for the rows in these ranges of offsets, both ends included.
    fn update<'r>(
        &self,
        ledger: &LedgerIdentity,
        set: impl FnOnce(&mut QueryBuilder<Sqlite>),
        condition: &str,
        ranges: impl Iterator<Item = (&'r str, i32, i64, i64)>,
    ) -> QueryBuilder<Sqlite> {
        let table = self.table.as_str();
        let mut query = QueryBuilder::new(format!("UPDATE \"{table}\" AS t SET "));
        set(&mut query);
        query.push(" FROM (");
        query.push_values(ranges, |mut row, (topic, partition, first, last)| {
            row.push_bind(topic)
                .push_bind(partition)
                .push_bind(first)
                .push_bind(last);
        });
        query
            .push(") AS r WHERE t.cluster_id = ")
            .push_bind(ledger.cluster_id.clone());
        query
            .push(" AND t.consumer_group = ")
            .push_bind(ledger.consumer_group.clone());
        query.push(" AND t.source_topic = r.column1 AND t.source_partition = r.column2");
        query.push(" AND t.source_offset BETWEEN r.column3 AND r.column4 AND ");
        query.push(condition);
        query
    }

    fn update_succeeded<'r>(
        &self,
        ledger: &LedgerIdentity,
        ranges: impl Iterator<Item = (&'r str, i32, i64, i64)>,
        now_ms: i64,
    ) -> QueryBuilder<Sqlite> {
        let set = |query: &mut QueryBuilder<Sqlite>| {
            query
                .push("resolved_at = CASE WHEN status = 'FAILED' THEN ")
                .push_bind(now_ms);
            query
                .push(" ELSE resolved_at END, status = 'SUCCESS', passed_at = ")
                .push_bind(now_ms);
            query.push(", updated_at = ").push_bind(now_ms);
        };
        self.update(
            ledger,
            set,
            "t.status IN ('RECEIVED', 'FAILED') AND t.passed_at IS NULL",
            ranges,
        )
    }
}

const COLUMNS: &str = "cluster_id, consumer_group, source_topic, source_partition, source_offset, record_timestamp_ms, \
     target_topic, message_key, headers, status, attempts, dedup_key, origin_dedup_key, error_class, error_message, \
     error_chain, payload, dead_lettered, fence, passed_at, created_at, updated_at";

/// In the order of [`COLUMNS`].
fn bind(
    mut value: Separated<'_, Sqlite, &'static str>,
    row: &LedgerRow,
    ledger: &LedgerIdentity,
    status: LedgerStatus,
    now_ms: i64,
) {
    value
        .push_bind(&*ledger.cluster_id)
        .push_bind(&*ledger.consumer_group)
        .push_bind(row.position.partition.topic.as_str())
        .push_bind(row.position.partition.partition)
        .push_bind(row.position.offset)
        .push_bind(row.record_timestamp_ms)
        .push_bind(row.target_topic.as_deref())
        .push_bind(row.message_key.as_deref())
        .push_bind(&*row.headers)
        .push_bind(status.as_str())
        .push_bind(row.attempts)
        .push_bind(&*row.dedup_key)
        .push_bind(row.origin_dedup_key.as_deref())
        .push_bind(row.error.as_ref().map(|error| error.class.as_str()))
        .push_bind(row.error.as_ref().map(|error| &*error.message))
        .push_bind(row.error.as_ref().map(|error| &*error.chain))
        .push_bind(row.payload.as_deref())
        .push_bind(row.dead_lettered)
        .push_bind(row.fence)
        .push_bind(row.passed_at_ms)
        .push_bind(now_ms)
        .push_bind(now_ms);
}

impl FailureStore for SqliteStore {
    fn prepare(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.migrate())
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
        Box::pin(async move {
            if rows.is_empty() {
                return Ok(());
            }
            let on_conflict = "status = excluded.status, passed_at = NULL, fence = excluded.fence, \
                updated_at = excluded.updated_at WHERE excluded.fence > fence";
            let query = self.insert(ledger, LedgerStatus::Received, rows, now_ms, on_conflict);
            self.execute(query).await
        })
    }

    fn upsert_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if rows.is_empty() {
                return Ok(());
            }
            let on_conflict = "target_topic = excluded.target_topic, message_key = excluded.message_key, \
                headers = excluded.headers, status = excluded.status, attempts = excluded.attempts, \
                dedup_key = excluded.dedup_key, origin_dedup_key = excluded.origin_dedup_key, \
                error_class = excluded.error_class, error_message = excluded.error_message, \
                error_chain = excluded.error_chain, payload = excluded.payload, \
                dead_lettered = excluded.dead_lettered, passed_at = CASE WHEN excluded.fence > fence \
                THEN excluded.passed_at ELSE coalesce(excluded.passed_at, passed_at) END, \
                resolved_at = NULL, fence = excluded.fence, updated_at = excluded.updated_at \
                WHERE excluded.fence >= fence";
            let query = self.insert(ledger, LedgerStatus::Failed, rows, now_ms, on_conflict);
            self.execute(query).await
        })
    }

    fn pass_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if positions.is_empty() {
                return Ok(());
            }
            let set = |query: &mut QueryBuilder<Sqlite>| {
                query.push("passed_at = ").push_bind(now_ms);
                query.push(", updated_at = ").push_bind(now_ms);
            };
            let provisional = "t.status = 'FAILED' AND t.passed_at IS NULL";
            let query = self.update(ledger, set, provisional, positions.iter().map(single));
            self.execute(query).await
        })
    }

    fn succeed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if positions.is_empty() {
                return Ok(());
            }
            self.execute(self.update_succeeded(ledger, positions.iter().map(single), now_ms))
                .await
        })
    }

    fn succeed_ranges<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if ranges.is_empty() {
                return Ok(());
            }
            let ends = |range: &'a OffsetRange| {
                let partition = &range.partition;
                (
                    partition.topic.as_str(),
                    partition.partition,
                    range.from,
                    range.next.saturating_sub(1),
                )
            };
            self.execute(self.update_succeeded(ledger, ranges.iter().map(ends), now_ms))
                .await
        })
    }

    fn provisional<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<i64>> {
        Box::pin(async move {
            let mut lease = self.lease().await?;
            let table = self.table.as_str();
            // The name was checked to be plain, so this is no injection.
            let sql = AssertSqlSafe(format!(
                "SELECT source_offset FROM \"{table}\" WHERE cluster_id = ? AND consumer_group = ? \
                 AND source_topic = ? AND source_partition = ? AND source_offset >= ? \
                 AND status = 'FAILED' AND passed_at IS NULL ORDER BY source_offset LIMIT ?"
            ));
            let query = sqlx::query_scalar(sql)
                .bind(&*ledger.cluster_id)
                .bind(&*ledger.consumer_group)
                .bind(from.partition.topic.as_str())
                .bind(from.partition.partition)
                .bind(from.offset)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX));
            let offsets = query.fetch_all(&mut *lease.connection).await;
            lease.answered();
            offsets.map_err(classified)
        })
    }
}

/// A position as a range of one.
fn single(position: &SourcePosition) -> (&str, i32, i64, i64) {
    let SourcePosition { partition, offset } = position;
    (
        partition.topic.as_str(),
        partition.partition,
        *offset,
        *offset,
    )
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

/// What kind of trouble an error is, in words without URLs, paths and payloads.
fn classified(error: impl Into<sqlx::Error>) -> StoreError {
    use StoreErrorClass::{Data, Timeout, Unavailable};
    match error.into() {
        sqlx::Error::Database(error) => {
            let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
            let message = error.message();
            // The low byte of an extended code is the primary one: https://www.sqlite.org/rescode.html
            let (class, remedy) = match code & 0xff {
                5 | 6 => (Timeout, "another process holds the lock"),
                8 => (Unavailable, "is the file of ORCH_DB_URL writable?"),
                13 => (Unavailable, "free some space"),
                14 => (
                    Unavailable,
                    "does the folder of ORCH_DB_URL exist, and is it writable?",
                ),
                11 | 26 => (
                    Unavailable,
                    "move the file of ORCH_DB_URL away, a new one is made",
                ),
                18 | 19 | 20 | 25 => (Data, "the row cannot be stored"),
                _ => (Unavailable, "see ORCH_DB_URL"),
            };
            StoreError::new(class, format!("SQLite: {message}: {remedy}"))
        }
        sqlx::Error::PoolTimedOut => StoreError::new(Timeout, "SQLite: the connection is busy"),
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
            StoreError::new(Data, "SQLite: the row cannot be stored")
        }
        sqlx::Error::Migrate(error) => match *error {
            sqlx::migrate::MigrateError::Execute(error)
            | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => classified(error),
            error => StoreError::new(
                Unavailable,
                format!("SQLite: the ledger's table was made by another version: {error}"),
            ),
        },
        sqlx::Error::Io(error) => StoreError::new(Unavailable, format!("SQLite: {}", error.kind())),
        _ => StoreError::new(
            Unavailable,
            "SQLite: the connection does not work: see ORCH_DB_URL",
        ),
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
