//! Rows as arrays, one for each column: an insert's text is the same for one row as for a thousand. Used by
//! `statements.rs`. It must never bind what PostgreSQL refuses.

use std::borrow::Cow;

use orchestrator_core::ledger_row::{LedgerRow, RowError};
use sqlx::Error;
use sqlx::postgres::PgBindIterExt;

use super::statement::Statement;

/// What is known of a record when it is taken.
pub(super) const TAKEN: &str = "source_topic, source_partition, source_offset, record_timestamp_ms, message_key, headers, \
     dedup_key, origin_dedup_key, payload, fence";

/// Its arrays, after three other parameters.
pub(super) const TAKEN_ARRAYS: &str = "$4::text[], $5::int4[], $6::int8[], $7::int8[], $8::bytea[], $9::bytea[], \
     $10::text[], $11::text[], $12::bytea[], $13::int8[]";

/// What a failure adds to it.
pub(super) const FAILED: &str =
    "target_topic, attempts, error_class, error_message, error_chain, dead_lettered, passed_at";

pub(super) const FAILED_ARRAYS: &str = "$14::text[], $15::int8[], $16::text[], $17::text[], $18::text[], $19::bool[], \
     $20::int8[]";

/// The most that one statement carries: PostgreSQL takes no message of a gigabyte, and holds several copies.
const STATEMENT_MAX_BYTES: usize = 16 * 1024 * 1024;

/// The rows in the order of the unique key, which keeps two processes from waiting for each other in a circle.
pub(super) fn sorted(rows: &[LedgerRow]) -> Vec<Cow<'_, LedgerRow>> {
    let mut rows: Vec<_> = rows.iter().map(without_nul).collect();
    rows.sort_by(|a, b| {
        let key = |row: &LedgerRow| row.record_timestamp_ms;
        a.position.cmp(&b.position).then(key(a).cmp(&key(b)))
    });
    rows
}

/// As many rows as one statement should carry, again and again.
pub(super) fn portions<'a, 'r>(
    mut rows: &'a [Cow<'r, LedgerRow>],
) -> impl Iterator<Item = &'a [Cow<'r, LedgerRow>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rows.iter().take_while(|row| {
            bytes += row.size();
            bytes <= STATEMENT_MAX_BYTES
        });
        let count = fits.count().max(1).min(rows.len());
        let (portion, rest) = rows.split_at(count);
        rows = rest;
        (!portion.is_empty()).then_some(portion)
    })
}

/// Binds [`TAKEN_ARRAYS`].
pub(super) fn bind_taken(
    statement: Statement,
    rows: &[Cow<'_, LedgerRow>],
) -> Result<Statement, Error> {
    let rows = || rows.iter().map(AsRef::<LedgerRow>::as_ref);
    let partition = || rows().map(|row| &row.position.partition);
    statement
        .bind(partition().map(|its| its.topic.as_str()).bind_iter())?
        .bind(partition().map(|its| its.partition).bind_iter())?
        .bind(rows().map(|row| row.position.offset).bind_iter())?
        .bind(rows().map(|row| row.record_timestamp_ms).bind_iter())?
        .bind(rows().map(|row| row.message_key.as_deref()).bind_iter())?
        .bind(rows().map(|row| &*row.headers).bind_iter())?
        .bind(rows().map(|row| &*row.dedup_key).bind_iter())?
        .bind(
            rows()
                .map(|row| row.origin_dedup_key.as_deref())
                .bind_iter(),
        )?
        .bind(rows().map(|row| row.payload.as_deref()).bind_iter())?
        .bind(rows().map(|row| row.fence).bind_iter())
}

/// Binds [`FAILED_ARRAYS`].
pub(super) fn bind_failed(
    statement: Statement,
    rows: &[Cow<'_, LedgerRow>],
) -> Result<Statement, Error> {
    let rows = || rows.iter().map(AsRef::<LedgerRow>::as_ref);
    let error = |text: fn(&RowError) -> &str| rows().map(move |row| row.error.as_ref().map(text));
    statement
        .bind(rows().map(|row| row.target_topic.as_deref()).bind_iter())?
        .bind(rows().map(|row| i64::from(row.attempts)).bind_iter())?
        .bind(error(|error| error.class.as_str()).bind_iter())?
        .bind(error(|error| &error.message).bind_iter())?
        .bind(error(|error| &error.chain).bind_iter())?
        .bind(rows().map(|row| row.dead_lettered).bind_iter())?
        .bind(rows().map(|row| row.passed_at_ms).bind_iter())
}

/// TEXT takes any character but one. Rows come without it as a rule; a topic that a transformer has chosen may have it.
fn without_nul(row: &LedgerRow) -> Cow<'_, LedgerRow> {
    let error = row.error.as_ref();
    let texts = [
        Some(row.position.partition.topic.as_str()),
        row.target_topic.as_deref(),
        Some(&row.dedup_key),
        row.origin_dedup_key.as_deref(),
        error.map(|error| &*error.message),
        error.map(|error| &*error.chain),
    ];
    if !texts.into_iter().flatten().any(|text| text.contains('\0')) {
        return Cow::Borrowed(row);
    }
    let clean = |text: &str| text.replace('\0', "\u{FFFD}");
    let mut row = row.clone();
    row.position.partition.topic = clean(&row.position.partition.topic).into();
    row.target_topic = row.target_topic.map(|topic| clean(&topic).into());
    row.dedup_key = clean(&row.dedup_key);
    row.origin_dedup_key = row.origin_dedup_key.as_deref().map(clean);
    row.error = row.error.map(|error| RowError {
        class: error.class,
        message: clean(&error.message),
        chain: clean(&error.chain),
    });
    Cow::Owned(row)
}
