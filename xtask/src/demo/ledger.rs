//! The rows of the failure ledger, read with SQL as an operator would. Called by `mod.rs`; writes nothing.

use std::path::Path;

use anyhow::Context;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

/// What the demo shows and checks of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) status: String,
    pub(super) attempts: i64,
    pub(super) error: String,
    pub(super) dead_lettered: bool,
    pub(super) passed: bool,
}

const ROWS: &str = "SELECT source_partition, source_offset, status, attempts, coalesce(error_message, ''), \
    dead_lettered, passed_at IS NOT NULL FROM event_failures ORDER BY source_offset, source_partition";

/// All rows, by offset and partition.
pub(super) async fn rows(ledger: &Path) -> anyhow::Result<Vec<Row>> {
    let options = SqliteConnectOptions::new().filename(ledger).read_only(true);
    let reading = || format!("cannot read the ledger {}", ledger.display());
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .with_context(reading)?;
    type Columns = (i32, i64, String, i64, String, bool, bool);
    let rows: Vec<Columns> = sqlx::query_as(ROWS)
        .fetch_all(&mut connection)
        .await
        .with_context(reading)?;
    connection.close().await.with_context(reading)?;
    let row = |(partition, offset, status, attempts, error, dead_lettered, passed)| Row {
        partition,
        offset,
        status,
        attempts,
        error,
        dead_lettered,
        passed,
    };
    Ok(rows.into_iter().map(row).collect())
}
