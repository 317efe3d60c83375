//! The rows of the failure ledger, read with SQL as an operator would. Called by audits; it must never write, and
//! never show the URL.

use std::fmt;

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, Database, Decode, Executor, Row as _, Type};
use sqlx::{ColumnIndex, MySqlConnection, PgConnection, SqliteConnection};

use super::AuditError;

/// A table of failures.
#[derive(Clone)]
pub struct Ledger {
    url: String,
    table: String,
}

/// The URL is a secret.
impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, .. } = self;
        f.debug_struct("Ledger")
            .field("table", table)
            .finish_non_exhaustive()
    }
}

/// Which rows are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// All of the topic.
    All,
    /// Those with status FAILED, in these source partitions, from the first offset up to the second.
    Failed(&'a [(i32, i64, i64)]),
}

/// What is looked at of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// RECEIVED, SUCCESS, FAILED or UNKNOWN.
    pub status: String,
    /// Whether it has been noted that the record was passed.
    pub passed: bool,
}

impl Ledger {
    /// The URL as in `ORCH_DB_URL`, the table as in `ORCH_ERROR_TABLE`.
    ///
    /// # Errors
    /// [`AuditError::LedgerScheme`].
    pub fn new(url: &str, table: &str) -> Result<Self, AuditError> {
        // The rest of the URL may hold a password.
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "sqlite" | "postgres" | "postgresql" | "mysql" | "mariadb" => Ok(Self {
                url: url.to_owned(),
                table: table.to_owned(),
            }),
            other => Err(AuditError::LedgerScheme(other.to_owned())),
        }
    }

    /// Shows source partition, source offset and state of the rows of a group and topic, in any order.
    ///
    /// # Errors
    /// A database that does not answer, or has no such table.
    pub fn read(
        &self,
        group: &str,
        topic: &str,
        rows: Rows<'_>,
        show: impl FnMut(i32, i64, Row),
    ) -> Result<(), AuditError> {
        let failed = |reason: String| AuditError::Ledger(reason);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let url = self.url.replacen("mariadb:", "mysql:", 1);
        let sql = self.sql(group, topic, rows);
        let read = async {
            match self.url.split(':').next() {
                Some("sqlite") => each(SqliteConnection::connect(&url).await?, sql, show).await,
                Some("mysql" | "mariadb") => {
                    each(MySqlConnection::connect(&url).await?, sql, show).await
                }
                _ => each(PgConnection::connect(&url).await?, sql, show).await,
            }
        };
        runtime
            .block_on(read)
            .map_err(|error| failed(error.to_string()))
    }

    fn sql(&self, group: &str, topic: &str, rows: Rows<'_>) -> String {
        let (quote, text) = match self.url.split(':').next() {
            Some("mysql" | "mariadb") => ("`", "CHAR"),
            _ => ("\"", "TEXT"),
        };
        let mut sql = format!(
            "SELECT CAST(source_partition AS {text}), CAST(source_offset AS {text}), status, \
             CASE WHEN passed_at IS NULL THEN '0' ELSE '1' END FROM {quote}{}{quote} \
             WHERE consumer_group = '{}' AND source_topic = '{}'",
            self.table.replace(quote, &quote.repeat(2)),
            group.replace('\'', "''"),
            topic.replace('\'', "''"),
        );
        if let Rows::Failed(ranges) = rows {
            let range = |(partition, from, to): &(i32, i64, i64)| {
                format!(
                    "source_partition = {partition} AND source_offset >= {from} AND source_offset < {to}"
                )
            };
            let ranges: Vec<String> = ranges.iter().map(range).collect();
            sql.push_str(" AND status = 'FAILED' AND (");
            sql.push_str(&ranges.join(" OR "));
            sql.push(')');
        }
        sql
    }
}

async fn each<C>(
    mut connection: C,
    sql: String,
    mut show: impl FnMut(i32, i64, Row),
) -> Result<(), sqlx::Error>
where
    C: Connection,
    for<'c> &'c mut C: Executor<'c, Database = C::Database>,
    for<'r> String: Decode<'r, C::Database> + Type<C::Database>,
    usize: ColumnIndex<<C::Database as Database>::Row>,
{
    {
        let mut rows = connection.fetch(sqlx::raw_sql(AssertSqlSafe(sql)));
        let number = |text: String| {
            text.parse::<i64>()
                .map_err(|error| sqlx::Error::Decode(error.into()))
        };
        while let Some(row) = rows.try_next().await? {
            let column = |at: usize| row.try_get_unchecked::<String, _>(at);
            let (partition, offset) = (number(column(0)?)?, number(column(1)?)?);
            let (status, passed) = (column(2)?, column(3)? == "1");
            let partition = i32::try_from(partition).unwrap_or(-1);
            show(partition, offset, Row { status, passed });
        }
    }
    connection.close().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_url_is_never_shown() {
        let error = Ledger::new("oracle://u:secret@h", "t").unwrap_err();
        assert!(error.to_string().contains("oracle:"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        let ledger = Ledger::new("postgres://u:secret@127.0.0.1:1/x", "t").unwrap();
        assert!(!format!("{ledger:?}").contains("secret"));
        let nobody = ledger.read("g", "t", Rows::All, |_, _, _| {}).unwrap_err();
        assert!(!format!("{nobody} {nobody:?}").contains("secret"));
    }

    #[test]
    fn names_are_quoted_and_ranges_are_asked_for() {
        let ledger = Ledger::new("mysql://h/x", "a`b").unwrap();
        let sql = ledger.sql("it's", "t", Rows::Failed(&[(0, 1, 2), (3, 4, 5)]));
        assert!(sql.contains("FROM `a``b` "), "{sql}");
        assert!(sql.contains("'it''s'"), "{sql}");
        let expected = "AND (source_partition = 0 AND source_offset >= 1 AND source_offset < 2 \
                        OR source_partition = 3 AND source_offset >= 4 AND source_offset < 5)";
        assert!(sql.ends_with(expected), "{sql}");
    }
}
