//! The store's statements: the SQL and what is bound to it. Used by the store; nothing is executed here. The only
//! name put into SQL is a checked table name.

use std::ops::Range;

use orchestrator_core::ledger_row::{LedgerRow, LedgerStatus};
use orchestrator_core::tracker::{STALE_CLASS, STALE_MESSAGE};
use orchestrator_core::{LedgerIdentity, OffsetRange, Settlement, SourcePartition, SourcePosition};
use sqlx::Sqlite;
use sqlx::query_builder::{QueryBuilder, Separated};

use super::super::TableName;
use crate::planted::{Bug, planted};

/// The statements of one call.
pub(super) struct Statements<'a> {
    pub(super) table: &'a TableName,
    pub(super) ledger: &'a LedgerIdentity,
    pub(super) now_ms: i64,
}

type Query = QueryBuilder<Sqlite>;

/// Topic, partition, first and last offset.
type Ends<'a> = (&'a str, i32, i64, i64);

impl Statements<'_> {
    pub(super) fn insert_received(&self, rows: &[LedgerRow]) -> Query {
        let on_conflict = "status = excluded.status, passed_at = NULL, fence = excluded.fence, \
            updated_at = excluded.updated_at WHERE excluded.fence > fence";
        self.insert(LedgerStatus::Received, rows, on_conflict)
    }

    pub(super) fn upsert_failed(&self, rows: &[LedgerRow]) -> Query {
        // A repeat (same fence) leaves `passed_at` alone; a newer batch starts anew.
        let on_conflict = "target_topic = excluded.target_topic, message_key = excluded.message_key, \
            headers = excluded.headers, status = excluded.status, attempts = excluded.attempts, \
            dedup_key = excluded.dedup_key, origin_dedup_key = excluded.origin_dedup_key, \
            error_class = excluded.error_class, error_message = excluded.error_message, \
            error_chain = excluded.error_chain, payload = excluded.payload, \
            dead_lettered = excluded.dead_lettered, passed_at = CASE WHEN excluded.fence > fence \
            THEN excluded.passed_at ELSE coalesce(excluded.passed_at, passed_at) END, \
            resolved_at = NULL, fence = excluded.fence, updated_at = excluded.updated_at \
            WHERE excluded.fence > fence OR (excluded.fence = fence AND status <> 'SUCCESS')";
        if planted(Bug::OlderRowOverwrites) {
            let condition = on_conflict.rfind(" WHERE ").expect("it has one");
            return self.insert(LedgerStatus::Failed, rows, &on_conflict[..condition]);
        }
        self.insert(LedgerStatus::Failed, rows, on_conflict)
    }

    pub(super) fn pass_failed(&self, positions: &[SourcePosition]) -> Query {
        let mut query = self.update();
        query.push("passed_at = ").push_bind(self.now_ms);
        self.within(&mut query, positions.iter().map(single));
        query.push(" AND t.status = 'FAILED' AND t.passed_at IS NULL AND t.fence <= ");
        query.push_bind(self.now_ms);
        query
    }

    pub(super) fn succeed(&self, ranges: &[OffsetRange]) -> Query {
        let mut query = self.update();
        query
            .push("resolved_at = CASE WHEN error_class IS NOT NULL THEN ")
            .push_bind(self.now_ms);
        query
            .push(" ELSE resolved_at END, status = 'SUCCESS', passed_at = ")
            .push_bind(self.now_ms);
        self.within(&mut query, ranges.iter().map(ends));
        query.push(
            " AND (t.status IN ('RECEIVED', 'FAILED') AND t.passed_at IS NULL OR t.status = 'UNKNOWN') \
             AND t.fence <= ",
        );
        query.push_bind(self.now_ms);
        query
    }

    pub(super) fn settle(
        &self,
        positions: &[SourcePosition],
        settlement: Settlement,
        before_ms: i64,
    ) -> Query {
        let mut query = self.update();
        query
            .push("status = ")
            .push_bind(settlement.status().as_str());
        if settlement == Settlement::Stale {
            query.push(", error_class = ").push_bind(STALE_CLASS);
            query.push(", error_message = ").push_bind(STALE_MESSAGE);
        } else {
            query.push(", passed_at = ").push_bind(self.now_ms);
        }
        self.within(&mut query, positions.iter().map(single));
        query
            .push(" AND t.status = 'RECEIVED' AND t.updated_at < ")
            .push_bind(before_ms);
        query
    }

    pub(super) fn prune(&self, created_ms: Range<i64>, limit: usize) -> Query {
        let table = self.table.as_str();
        let mut query = QueryBuilder::new(format!(
            "DELETE FROM \"{table}\" WHERE rowid IN (SELECT rowid FROM \"{table}\""
        ));
        query
            .push(" WHERE created_at >= ")
            .push_bind(created_ms.start);
        query.push(" AND created_at < ").push_bind(created_ms.end);
        // With a + none of them is looked up in the index of positions, which would be read from end to end and sorted:
        // SQLite takes that for the better one unless ANALYZE has run.
        query
            .push(" AND status = 'SUCCESS' AND +cluster_id = ")
            .push_bind(&*self.ledger.cluster_id);
        query
            .push(" AND +consumer_group = ")
            .push_bind(&*self.ledger.consumer_group);
        query
            .push(" ORDER BY created_at LIMIT ")
            .push_bind(count(limit));
        query.push(")");
        query
    }

    pub(super) fn page(&self, from: &SourcePosition, limit: usize) -> Query {
        let mut query = self.select("source_offset, status = 'RECEIVED', updated_at", from);
        query
            .push(" ORDER BY source_offset LIMIT ")
            .push_bind(count(limit));
        query
    }

    pub(super) fn provisional(&self, from: &SourcePosition, limit: usize) -> Query {
        let mut query = self.select("source_offset, fence", from);
        // As literals, or the partial index would not be used.
        query.push(" AND status = 'FAILED' AND passed_at IS NULL ORDER BY source_offset LIMIT ");
        query.push_bind(count(limit));
        query
    }

    /// Rows of a partition from a position on.
    fn select(&self, columns: &'static str, from: &SourcePosition) -> Query {
        let mut query = QueryBuilder::new(format!("SELECT {columns} FROM \""));
        query.push(self.table.as_str());
        query
            .push("\" WHERE cluster_id = ")
            .push_bind(&*self.ledger.cluster_id);
        query
            .push(" AND consumer_group = ")
            .push_bind(&*self.ledger.consumer_group);
        query
            .push(" AND source_topic = ")
            .push_bind(from.partition.topic.as_str());
        query
            .push(" AND source_partition = ")
            .push_bind(from.partition.partition);
        query.push(" AND source_offset >= ").push_bind(from.offset);
        query
    }

    fn insert(&self, status: LedgerStatus, rows: &[LedgerRow], on_conflict: &str) -> Query {
        let table = self.table.as_str();
        let mut query = QueryBuilder::new(format!("INSERT INTO \"{table}\" ({COLUMNS}) "));
        query.push_values(rows, |row, value| bind(row, value, self, status));
        query.push(
            " ON CONFLICT (cluster_id, consumer_group, source_topic, source_partition, source_offset, \
             record_timestamp_ms) DO UPDATE SET ",
        );
        query.push(on_conflict);
        query
    }

    fn update(&self) -> Query {
        QueryBuilder::new(format!("UPDATE \"{}\" AS t SET ", self.table.as_str()))
    }

    /// The end of what is set, and the rows it is set in: a look-up by the unique key's index for each range.
    fn within<'r>(&self, query: &mut Query, ranges: impl Iterator<Item = Ends<'r>>) {
        query
            .push(", updated_at = ")
            .push_bind(self.now_ms)
            .push(" FROM (");
        query.push_values(ranges, |mut row, (topic, partition, first, last)| {
            row.push_bind(topic)
                .push_bind(partition)
                .push_bind(first)
                .push_bind(last);
        });
        query
            .push(") AS r WHERE t.cluster_id = ")
            .push_bind(&*self.ledger.cluster_id);
        query
            .push(" AND t.consumer_group = ")
            .push_bind(&*self.ledger.consumer_group);
        query.push(" AND t.source_topic = r.column1 AND t.source_partition = r.column2");
        query.push(" AND t.source_offset BETWEEN r.column3 AND r.column4");
    }
}

const COLUMNS: &str = "cluster_id, consumer_group, source_topic, source_partition, source_offset, record_timestamp_ms, \
     target_topic, message_key, headers, status, attempts, dedup_key, origin_dedup_key, error_class, error_message, \
     error_chain, payload, dead_lettered, fence, passed_at, created_at, updated_at";

/// In the order of [`COLUMNS`].
fn bind(
    mut value: Separated<'_, Sqlite, &'static str>,
    row: &LedgerRow,
    statements: &Statements<'_>,
    status: LedgerStatus,
) {
    value
        .push_bind(&*statements.ledger.cluster_id)
        .push_bind(&*statements.ledger.consumer_group)
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
        .push_bind(statements.now_ms)
        .push_bind(statements.now_ms);
}

/// The ends of a range that is not empty.
fn ends(range: &OffsetRange) -> Ends<'_> {
    let SourcePartition { topic, partition } = &range.partition;
    (topic, *partition, range.from, range.next.saturating_sub(1))
}

/// A position as a range of one.
fn single(position: &SourcePosition) -> Ends<'_> {
    let SourcePosition { partition, offset } = position;
    (
        partition.topic.as_str(),
        partition.partition,
        *offset,
        *offset,
    )
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
