//! The rows of the failure ledger, read with SQL as an operator would.

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, Database, Decode, Executor, Row as _, Type};
use sqlx::{ColumnIndex, MySqlConnection, PgConnection, SqliteConnection};

/// Where the rows are, and which there must be.
#[derive(Clone, Debug)]
pub(crate) struct LedgerScope {
    /// As in ORCH_DB_URL: a secret.
    pub(crate) url: String,
    pub(crate) table: String,
    pub(crate) rows: Rows,
}

/// Of which orders there are rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Of those that failed.
    Failures,
    /// Of all.
    All,
}

/// What is looked at of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) status: String,
    pub(super) passed: bool,
}

/// Shows partition, offset and state of every row of a group and topic.
pub(super) fn rows(
    scope: &LedgerScope,
    group: &str,
    topic: &str,
    show: impl FnMut(i32, i64, Row),
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (scheme, _) = scope.url.split_once(':').unwrap_or_default();
    let (quote, text) = match scheme {
        "mysql" | "mariadb" => ('`', "CHAR"),
        _ => ('"', "TEXT"),
    };
    let sql = format!(
        "SELECT CAST(source_partition AS {text}), CAST(source_offset AS {text}), status, \
         CASE WHEN passed_at IS NULL THEN '0' ELSE '1' END FROM {quote}{}{quote} \
         WHERE consumer_group = '{}' AND source_topic = '{}'",
        scope.table,
        group.replace('\'', "''"),
        topic.replace('\'', "''"),
    );
    let url = scope.url.replacen("mariadb:", "mysql:", 1);
    let read = async {
        match scheme {
            "sqlite" => each(SqliteConnection::connect(&url).await?, sql, show).await,
            "postgres" | "postgresql" => each(PgConnection::connect(&url).await?, sql, show).await,
            "mysql" | "mariadb" => each(MySqlConnection::connect(&url).await?, sql, show).await,
            // The rest of the URL may hold a password.
            other => {
                bail!("the ledger's URL begins with {other}:, which is no database known here")
            }
        }
    };
    runtime.block_on(read).context("cannot read the ledger")
}

async fn each<C>(mut connection: C, sql: String, mut show: impl FnMut(i32, i64, Row)) -> Result<()>
where
    C: Connection,
    for<'c> &'c mut C: Executor<'c, Database = C::Database>,
    for<'r> String: Decode<'r, C::Database> + Type<C::Database>,
    usize: ColumnIndex<<C::Database as Database>::Row>,
{
    {
        let mut rows = connection.fetch(sqlx::raw_sql(AssertSqlSafe(sql)));
        while let Some(row) = rows.try_next().await? {
            let column = |at: usize| row.try_get_unchecked::<String, _>(at);
            let (partition, offset) = (column(0)?.parse()?, column(1)?.parse()?);
            let (status, passed) = (column(2)?, column(3)? == "1");
            show(partition, offset, Row { status, passed });
        }
    }
    connection.close().await?;
    Ok(())
}
