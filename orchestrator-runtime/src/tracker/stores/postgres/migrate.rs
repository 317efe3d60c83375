//! Makes the ledger's table, or finds it made. Called by `prepare`. Where all is done it must need no more than to read
//! the migrations table: the role that runs the program need not be one that may create tables.

use std::borrow::Cow;
use std::collections::HashMap;

use orchestrator_core::StoreError;
use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, SqlSafeStr};

use super::super::TableName;
use super::error::classified;
use super::{PostgresStore, finish};

/// No table of this name can be seen.
const UNDEFINED_TABLE: &str = "42P01";

impl PostgresStore {
    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let mut lease = self.connections.lease().await.map_err(classified)?;
        let result = self.migrate_on(lease.connection()).await;
        finish(lease, result)
    }

    async fn migrate_on(&self, connection: &mut PgConnection) -> Result<(), Error> {
        if self.is_migrated(connection).await? {
            return Ok(());
        }
        let mut transaction = connection.begin().await?;
        // Making a table may take longer than writing a row, and somebody else may be making it.
        sqlx::raw_sql("SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '10s'")
            .execute(&mut *transaction)
            .await?;
        // One process at a time, until the transaction ends, however it ends.
        sqlx::query(
            "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '.' || $1, 0))",
        )
        .bind(&self.migrations)
        .execute(&mut *transaction)
        .await?;
        self.migrator
            .run_direct(None, &mut *transaction, false)
            .await?;
        transaction.commit().await
    }

    async fn is_migrated(&self, connection: &mut PgConnection) -> Result<bool, Error> {
        let applied = format!("SELECT version, checksum FROM {}", self.migrations);
        let applied = sqlx::query_as(AssertSqlSafe(applied)).fetch_all(connection);
        let applied: HashMap<i64, Vec<u8>> = match applied.await {
            Ok(rows) => rows.into_iter().collect(),
            Err(Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        for migration in self.migrator.iter() {
            match applied.get(&migration.version) {
                None => return Ok(false),
                Some(checksum) if **checksum != *migration.checksum => {
                    return Err(MigrateError::VersionMismatch(migration.version).into());
                }
                Some(_) => {}
            }
        }
        Ok(true)
    }
}

/// The migrations table's name, quoted: the driver puts it into SQL as it is, and unquoted it would lose its case.
pub(super) fn quoted(table: &TableName) -> String {
    format!("\"{}\"", table.migrations())
}

/// The migrations, with the names of our tables in them.
pub(super) fn migrator(table: &TableName) -> Migrator {
    let embedded = sqlx::migrate!("../migrations/postgres");
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
    migrator.dangerous_set_table_name(Cow::Owned(quoted(table)));
    // During a rolling update an older program meets the table of a newer one: columns are only ever added.
    migrator.set_ignore_missing(true);
    // The lock is ours: sqlx's is one for the whole database, and is waited for outside of a transaction.
    migrator.set_locking(false);
    migrator
}
