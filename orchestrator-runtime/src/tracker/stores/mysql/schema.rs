//! The ledger's table, made and brought up to date. Called when the store is prepared. Statements that change tables
//! are no part of a transaction here: each may be repeated, and one process at a time does it.

use std::borrow::Cow;

use orchestrator_core::{StoreError, StoreErrorClass};
use sqlx::migrate::{Migrate, MigrateError, Migration, Migrator};
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{AssertSqlSafe, MySqlConnection, SqlSafeStr};

use super::super::TableName;
use super::error::classified;

const NO_SUCH_TABLE: u16 = 1146;

/// How long to wait for another process that does it, in seconds.
const LOCK_PATIENCE_S: i64 = 3;
/// One for each ledger; a lock's name is 64 characters at most.
const LOCK_NAME: &str = "CONCAT('orchestrator.', LEFT(SHA2(CONCAT(DATABASE(), '.', ?), 256), 40))";

/// See the module.
#[derive(Debug)]
pub(super) struct Schema {
    migrator: Migrator,
    /// The table in which it is noted what was applied.
    notes: String,
}

impl Schema {
    pub(super) fn new(table: &TableName) -> Self {
        let embedded = sqlx::migrate!("../migrations/mysql");
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
        let notes = table.migrations();
        migrator.dangerous_set_table_name(Cow::Owned(notes.clone()));
        // During a rolling update an older program meets the table of a newer one: columns are only ever added.
        migrator.set_ignore_missing(true);
        // sqlx waits for its lock without bound on MySQL, and not at all on MariaDB: we have our own.
        migrator.set_locking(false);
        Self { migrator, notes }
    }

    /// Applies what was not applied yet. If there is nothing to apply, nothing but SELECT is needed.
    pub(super) async fn bring_up_to_date(
        &self,
        connection: &mut MySqlConnection,
    ) -> Result<(), StoreError> {
        if self.is_up_to_date(connection).await.map_err(classified)? {
            return Ok(());
        }
        let locked: Option<i64> =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT GET_LOCK({LOCK_NAME}, ?)")))
                .bind(&self.notes)
                .bind(LOCK_PATIENCE_S)
                .fetch_one(&mut *connection)
                .await
                .map_err(classified)?;
        if locked != Some(1) {
            let message = "MySQL: another process is still making the ledger's table";
            return Err(StoreError::new(StoreErrorClass::Timeout, message));
        }
        let applied = self.apply(connection).await;
        // The server frees it too, as soon as the connection is closed.
        sqlx::query(AssertSqlSafe(format!("DO RELEASE_LOCK({LOCK_NAME})")))
            .bind(&self.notes)
            .execute(connection)
            .await
            .map_err(classified)?;
        applied.map_err(classified)
    }

    async fn is_up_to_date(&self, connection: &mut MySqlConnection) -> Result<bool, MigrateError> {
        let applied = match connection.list_applied_migrations(&self.notes).await {
            Err(error) if is_no_such_table(&error) => return Ok(false),
            applied => applied?,
        };
        let is_applied = |migration: &Migration| {
            applied.iter().any(|applied| {
                applied.version == migration.version && applied.checksum == migration.checksum
            })
        };
        let half_applied = connection.dirty_version(&self.notes).await?;
        Ok(half_applied.is_none() && self.migrator.iter().all(is_applied))
    }

    /// Under the lock.
    async fn apply(&self, connection: &mut MySqlConnection) -> Result<(), MigrateError> {
        connection.ensure_migrations_table(&self.notes).await?;
        // Whoever noted that it began has not ended, and is gone, for we have the lock: it is done again.
        let notes = &self.notes;
        sqlx::query(AssertSqlSafe(format!(
            "DELETE FROM `{notes}` WHERE NOT success"
        )))
        .execute(&mut *connection)
        .await?;
        self.migrator.run_direct(None, connection, false).await
    }
}

fn is_no_such_table(error: &MigrateError) -> bool {
    let MigrateError::Execute(sqlx::Error::Database(error)) = error else {
        return false;
    };
    error
        .try_downcast_ref::<MySqlDatabaseError>()
        .is_some_and(|error| error.number() == NO_SUCH_TABLE)
}
