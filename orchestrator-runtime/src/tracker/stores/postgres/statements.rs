//! The store's statements: the SQL and what is bound to it. Used by the store; nothing is executed here. The only name
//! put into SQL is a checked table name, and no text depends on the number of rows: each is planned once a connection.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::tracker::{STALE_CLASS, STALE_MESSAGE};
use orchestrator_core::{LedgerIdentity, OffsetRange, Settlement, SourcePartition, SourcePosition};
use sqlx::Error;

use super::super::TableName;
use super::ranges::{Covered, covered};
use super::rows;
use super::statement::Statement;

type One = Result<Statement, Error>;
type All = Result<Vec<Statement>, Error>;

/// The texts for one table.
pub(super) struct Statements {
    table: TableName,
    pub(super) insert_received: Arc<str>,
    upsert_failed: Arc<str>,
    pub(super) pass_failed: Arc<str>,
    pub(super) succeed_range: Arc<str>,
    pub(super) succeed_offsets: Arc<str>,
    pub(super) settle: Arc<str>,
    pub(super) prune: Arc<str>,
    pub(super) provisional: Arc<str>,
    pub(super) page: Arc<str>,
}

/// What an insert does to a row that is there, if the row is not older.
const TAKEN_AGAIN: &str = "status = excluded.status, passed_at = NULL, fence = excluded.fence, \
     updated_at = excluded.updated_at WHERE excluded.fence > t.fence";
/// A repeat (same fence) leaves `passed_at` alone; a newer batch starts anew.
const FAILED: &str = "target_topic = excluded.target_topic, message_key = excluded.message_key, \
     headers = excluded.headers, status = excluded.status, attempts = excluded.attempts, \
     dedup_key = excluded.dedup_key, origin_dedup_key = excluded.origin_dedup_key, \
     error_class = excluded.error_class, error_message = excluded.error_message, \
     error_chain = excluded.error_chain, payload = excluded.payload, dead_lettered = excluded.dead_lettered, \
     passed_at = CASE WHEN excluded.fence > t.fence THEN excluded.passed_at \
     ELSE coalesce(excluded.passed_at, t.passed_at) END, \
     resolved_at = NULL, fence = excluded.fence, updated_at = excluded.updated_at \
     WHERE excluded.fence > t.fence OR (excluded.fence = t.fence AND t.status <> 'SUCCESS')";

const SUCCEEDED: &str = "status = 'SUCCESS', passed_at = $5, updated_at = $5, \
     resolved_at = CASE WHEN error_class IS NULL THEN resolved_at ELSE $5 END";
const OPEN: &str = "(status IN ('RECEIVED', 'FAILED') AND passed_at IS NULL OR status = 'UNKNOWN') AND fence <= $5";

/// The unique key but for the offset.
const OF_PARTITION: &str =
    "cluster_id = $1 AND consumer_group = $2 AND source_topic = $3 AND source_partition = $4";

impl Statements {
    pub(super) fn new(table: TableName) -> Self {
        let name = format!("\"{}\"", table.as_str());
        let insert = |columns: &[&str],
                      values: &[&str],
                      arrays: &[&str],
                      on_conflict|
         -> Arc<str> {
            let (columns, values, arrays) =
                (columns.join(", "), values.join(", "), arrays.join(", "));
            format!(
                "INSERT INTO {name} AS t (cluster_id, consumer_group, created_at, updated_at, {columns}) \
                 SELECT $1, $2, $3, $3, {values}, r.* FROM UNNEST({arrays}) AS r \
                 ON CONFLICT (cluster_id, consumer_group, source_topic, source_partition, source_offset, \
                 record_timestamp_ms) DO UPDATE SET {on_conflict}"
            )
            .into()
        };
        let in_range = |set, condition: &str| -> Arc<str> {
            let within = "source_offset BETWEEN $6 AND $7 AND source_offset <> ALL($8)";
            format!("UPDATE {name} SET {set} WHERE {OF_PARTITION} AND {within} AND {condition}")
                .into()
        };
        // Each offset is looked up by itself, and locked, which makes its place in the table known for the update.
        // `source_offset = ANY($6)` would read the whole partition wherever the table had no statistics when the
        // statement was planned, and so would a join with the offsets.
        let at_offsets = |set, condition: &str| -> Arc<str> {
            format!(
                "UPDATE {name} SET {set} WHERE ctid = ANY(ARRAY(SELECT found.ctid FROM UNNEST($6::int8[]) AS o, \
                 LATERAL (SELECT ctid FROM {name} WHERE {OF_PARTITION} AND source_offset = o AND {condition} \
                 FOR UPDATE) AS found))"
            )
            .into()
        };
        let select = |columns, condition| {
            let text = format!(
                "SELECT {columns} FROM {name} WHERE {OF_PARTITION} AND source_offset >= $5 {condition} \
                 ORDER BY source_offset LIMIT $6"
            );
            text.into()
        };
        Self {
            insert_received: insert(
                &["status, attempts, dead_lettered", rows::TAKEN],
                &["'RECEIVED', 0, false"],
                &[rows::TAKEN_ARRAYS],
                TAKEN_AGAIN,
            ),
            upsert_failed: insert(
                &["status", rows::TAKEN, rows::FAILED],
                &["'FAILED'"],
                &[rows::TAKEN_ARRAYS, rows::FAILED_ARRAYS],
                FAILED,
            ),
            pass_failed: at_offsets(
                "passed_at = $5, updated_at = $5",
                "status = 'FAILED' AND passed_at IS NULL AND fence <= $5",
            ),
            succeed_range: in_range(SUCCEEDED, OPEN),
            succeed_offsets: at_offsets(SUCCEEDED, OPEN),
            settle: at_offsets(
                "status = $7, updated_at = $5, passed_at = $8, error_class = coalesce($9, error_class), \
                 error_message = coalesce($10, error_message)",
                "status = 'RECEIVED' AND updated_at < $11",
            ),
            // What another process is pruning just now is left to it.
            prune: format!(
                "DELETE FROM {name} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {name} WHERE cluster_id = $1 \
                 AND consumer_group = $2 AND created_at >= $3 AND created_at < $4 AND status = 'SUCCESS' \
                 ORDER BY created_at LIMIT $5 FOR UPDATE SKIP LOCKED))"
            )
            .into(),
            // Said so, or the partial index would not be used.
            provisional: select(
                "source_offset, fence",
                "AND error_class IS NOT NULL AND status = 'FAILED' AND passed_at IS NULL",
            ),
            page: select("source_offset, status = 'RECEIVED', updated_at", ""),
            table,
        }
    }

    pub(super) fn insert_received(
        &self,
        ledger: &LedgerIdentity,
        rows: &[LedgerRow],
        now_ms: i64,
    ) -> All {
        insert(rows, |rows| {
            let statement = of_ledger(&self.insert_received, ledger)?.bind(now_ms)?;
            rows::bind_taken(statement, rows)
        })
    }

    pub(super) fn upsert_failed(
        &self,
        ledger: &LedgerIdentity,
        rows: &[LedgerRow],
        now_ms: i64,
    ) -> All {
        insert(rows, |rows| {
            let statement = of_ledger(&self.upsert_failed, ledger)?.bind(now_ms)?;
            rows::bind_failed(rows::bind_taken(statement, rows)?, rows)
        })
    }

    pub(super) fn pass_failed(
        &self,
        ledger: &LedgerIdentity,
        positions: &[SourcePosition],
        at_ms: i64,
    ) -> All {
        by_partition(positions, |partition, offsets| {
            of_partition(&self.pass_failed, ledger, partition)?
                .bind(at_ms)?
                .bind(offsets)
        })
    }

    pub(super) fn succeed(
        &self,
        ledger: &LedgerIdentity,
        ranges: &[OffsetRange],
        at_ms: i64,
    ) -> All {
        let statement = |covered| match covered {
            Covered::Range {
                partition,
                first,
                last,
                but,
            } => of_partition(&self.succeed_range, ledger, partition)?
                .bind(at_ms)?
                .bind(first)?
                .bind(last)?
                .bind(but),
            Covered::Offsets { partition, offsets } => {
                of_partition(&self.succeed_offsets, ledger, partition)?
                    .bind(at_ms)?
                    .bind(offsets)
            }
        };
        covered(ranges).into_iter().map(statement).collect()
    }

    pub(super) fn settle(
        &self,
        ledger: &LedgerIdentity,
        positions: &[SourcePosition],
        settlement: Settlement,
        before_ms: i64,
        now_ms: i64,
    ) -> All {
        let (passed_at, error) = match settlement {
            Settlement::Stale => (None, Some((STALE_CLASS, STALE_MESSAGE))),
            _ => (Some(now_ms), None),
        };
        by_partition(positions, |partition, offsets| {
            of_partition(&self.settle, ledger, partition)?
                .bind(now_ms)?
                .bind(offsets)?
                .bind(settlement.status().as_str())?
                .bind(passed_at)?
                .bind(error.map(|(class, _)| class))?
                .bind(error.map(|(_, message)| message))?
                .bind(before_ms)
        })
    }

    pub(super) fn prune(
        &self,
        ledger: &LedgerIdentity,
        created_ms: &Range<i64>,
        limit: usize,
    ) -> One {
        of_ledger(&self.prune, ledger)?
            .bind(created_ms.start)?
            .bind(created_ms.end)?
            .bind(count(limit))
    }

    pub(super) fn provisional(
        &self,
        ledger: &LedgerIdentity,
        from: &SourcePosition,
        limit: usize,
    ) -> One {
        of_partition(&self.provisional, ledger, &from.partition)?
            .bind(from.offset)?
            .bind(count(limit))
    }

    pub(super) fn page(&self, ledger: &LedgerIdentity, from: &SourcePosition, limit: usize) -> One {
        of_partition(&self.page, ledger, &from.partition)?
            .bind(from.offset)?
            .bind(count(limit))
    }
}

impl fmt::Debug for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statements")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

fn insert(rows: &[LedgerRow], statement: impl Fn(&[Cow<'_, LedgerRow>]) -> One) -> All {
    let rows = rows::sorted(rows);
    rows::portions(&rows).map(statement).collect()
}

/// A statement for each partition, in their order: see [`rows::sorted`].
fn by_partition(
    positions: &[SourcePosition],
    statement: impl Fn(&SourcePartition, Vec<i64>) -> One,
) -> All {
    let mut sorted: Vec<&SourcePosition> = positions.iter().collect();
    sorted.sort();
    let of_partitions = sorted.chunk_by(|a, b| a.partition == b.partition);
    of_partitions
        .map(|positions| {
            let offsets = positions.iter().map(|position| position.offset);
            statement(&positions[0].partition, offsets.collect())
        })
        .collect()
}

fn of_partition(sql: &Arc<str>, ledger: &LedgerIdentity, partition: &SourcePartition) -> One {
    of_ledger(sql, ledger)?
        .bind(partition.topic.as_str())?
        .bind(partition.partition)
}

fn of_ledger(sql: &Arc<str>, ledger: &LedgerIdentity) -> One {
    Statement::new(sql)
        .bind(&*ledger.cluster_id)?
        .bind(&*ledger.consumer_group)
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
