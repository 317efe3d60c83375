//! The store's statements: the SQL and what is bound to it. Used by the store; nothing is executed here. The only
//! name put into SQL is a checked table name.
//!
//! A statement's text depends on nothing but a power of two, that of its rows or ranges: each is prepared once per
//! connection. It is the common subset of MariaDB and MySQL, so `VALUES()` and no row alias. Both evaluate the
//! assignments of a statement from left to right, and a column that is assigned has its new value from there on:
//! `status` comes after whatever depends on it, and `fence` last.

use std::fmt::Write;
use std::ops::Range;

use orchestrator_core::ledger_row::{LedgerRow, LedgerStatus};
use orchestrator_core::tracker::{STALE_CLASS, STALE_MESSAGE};
use orchestrator_core::{LedgerIdentity, OffsetRange, Settlement, SourcePartition, SourcePosition};
use sqlx::MySql;
use sqlx::query_builder::{QueryBuilder, Separated};

use super::super::TableName;

/// The statements of one call.
#[derive(Clone, Copy)]
pub(super) struct Statements<'a> {
    pub(super) table: &'a TableName,
    pub(super) ledger: &'a LedgerIdentity,
    pub(super) now_ms: i64,
}

pub(super) type Query = QueryBuilder<MySql>;

/// Topic, partition, first and last offset.
pub(super) type Ends<'a> = (&'a str, i32, i64, i64);

/// Whether the row that is there is replaced by the failure that is written.
const FAILURE_WINS: &str =
    "VALUES(fence) > fence OR (VALUES(fence) = fence AND status <> 'SUCCESS')";

/// What a failure replaces, besides `passed_at`, `resolved_at`, `status` and `fence`.
const FAILURE_REPLACES: [&str; 12] = [
    "target_topic",
    "message_key",
    "headers",
    "attempts",
    "dedup_key",
    "origin_dedup_key",
    "error_class",
    "error_message",
    "error_chain",
    "payload",
    "dead_lettered",
    "updated_at",
];

impl Statements<'_> {
    pub(super) fn insert_received(&self, rows: &[&LedgerRow]) -> Query {
        let mut query = self.insert(LedgerStatus::Received, rows);
        query.push(
            "status = IF(VALUES(fence) > fence, VALUES(status), status), \
             passed_at = IF(VALUES(fence) > fence, NULL, passed_at), \
             updated_at = IF(VALUES(fence) > fence, VALUES(updated_at), updated_at), \
             fence = GREATEST(VALUES(fence), fence)",
        );
        query
    }

    pub(super) fn upsert_failed(&self, rows: &[&LedgerRow]) -> Query {
        let mut query = self.insert(LedgerStatus::Failed, rows);
        let mut set = String::new();
        for column in FAILURE_REPLACES {
            // Writing to a String cannot fail.
            write!(
                set,
                "{column} = IF({FAILURE_WINS}, VALUES({column}), {column}), "
            )
            .ok();
        }
        query.push(set);
        // A repeat (same fence) leaves `passed_at` alone; a newer batch starts anew.
        query.push(format_args!(
            "passed_at = IF(VALUES(fence) > fence, VALUES(passed_at), \
             IF({FAILURE_WINS}, COALESCE(VALUES(passed_at), passed_at), passed_at)), \
             resolved_at = IF({FAILURE_WINS}, NULL, resolved_at), \
             status = IF({FAILURE_WINS}, VALUES(status), status), \
             fence = GREATEST(VALUES(fence), fence)"
        ));
        query
    }

    pub(super) fn pass_failed(&self, ranges: &[Ends<'_>]) -> Query {
        let mut query = self.update();
        query.push("passed_at = ").push_bind(self.now_ms);
        self.within(&mut query, ranges);
        query.push(" AND status = 'FAILED' AND passed_at IS NULL AND fence <= ");
        query.push_bind(self.now_ms);
        query
    }

    pub(super) fn succeed(&self, ranges: &[Ends<'_>]) -> Query {
        let mut query = self.update();
        query
            .push("resolved_at = IF(error_class IS NULL, resolved_at, ")
            .push_bind(self.now_ms);
        query
            .push("), passed_at = ")
            .push_bind(self.now_ms)
            .push(", status = 'SUCCESS'");
        self.within(&mut query, ranges);
        query.push(
            " AND (status IN ('RECEIVED', 'FAILED') AND passed_at IS NULL OR status = 'UNKNOWN') AND fence <= ",
        );
        query.push_bind(self.now_ms);
        query
    }

    pub(super) fn settle(
        &self,
        ranges: &[Ends<'_>],
        settlement: Settlement,
        before_ms: i64,
    ) -> Query {
        let mut query = self.update();
        if settlement == Settlement::Stale {
            query.push("error_class = ").push_bind(STALE_CLASS);
            query.push(", error_message = ").push_bind(STALE_MESSAGE);
        } else {
            query.push("passed_at = ").push_bind(self.now_ms);
        }
        query
            .push(", status = ")
            .push_bind(settlement.status().as_str());
        self.within(&mut query, ranges);
        query.push(" AND status = 'RECEIVED' AND updated_at < ");
        query.push_bind(before_ms);
        query
    }

    /// What is to be deleted is looked for first, in the index made for it, and without locks; a DELETE with a limit
    /// of its own cannot be told which index to use.
    pub(super) fn prune(&self, created_ms: Range<i64>, limit: usize) -> Query {
        let table = self.table.as_str();
        let mut query = QueryBuilder::new("DELETE t FROM (SELECT ");
        query.push(KEY);
        query.push(format_args!(
            " FROM `{table}` FORCE INDEX (created) WHERE created_at >= "
        ));
        query.push_bind(created_ms.start);
        query.push(" AND created_at < ").push_bind(created_ms.end);
        query.push(" AND status = 'SUCCESS'");
        self.own(&mut query);
        query
            .push(" ORDER BY created_at LIMIT ")
            .push_bind(count(limit));
        query.push(format_args!(
            ") AS old STRAIGHT_JOIN `{table}` AS t USING ({KEY}) WHERE t.status = 'SUCCESS'"
        ));
        query
    }

    pub(super) fn page(&self, from: &SourcePosition, limit: usize) -> Query {
        let columns = "source_offset, status = 'RECEIVED', updated_at";
        let mut query = self.select(columns, "PRIMARY", from);
        query
            .push(" ORDER BY source_offset LIMIT ")
            .push_bind(count(limit));
        query
    }

    pub(super) fn provisional(&self, from: &SourcePosition, limit: usize) -> Query {
        let mut query = self.select("source_offset, fence", "provisional", from);
        query.push(" AND provisional = 1 ORDER BY source_offset LIMIT ");
        query.push_bind(count(limit));
        query
    }

    /// Rows of a partition from a position on.
    fn select(&self, columns: &str, index: &str, from: &SourcePosition) -> Query {
        let table = self.table.as_str();
        let mut query = QueryBuilder::new("SELECT ");
        query.push(format_args!(
            "{columns} FROM `{table}` FORCE INDEX ({index}) WHERE source_topic = "
        ));
        query.push_bind(from.partition.topic.as_str());
        query
            .push(" AND source_partition = ")
            .push_bind(from.partition.partition);
        query.push(" AND source_offset >= ").push_bind(from.offset);
        self.own(&mut query);
        query
    }

    fn own(&self, query: &mut Query) {
        query
            .push(" AND cluster_id = ")
            .push_bind(&*self.ledger.cluster_id);
        query
            .push(" AND consumer_group = ")
            .push_bind(&*self.ledger.consumer_group);
    }

    fn insert(&self, status: LedgerStatus, rows: &[&LedgerRow]) -> Query {
        let table = self.table.as_str();
        let mut query =
            QueryBuilder::new(format!("INSERT INTO `{table}` ({KEY}, {OTHER_COLUMNS}) "));
        query.push_values(rows, |value, row| bind(value, row, self, status));
        query.push(" ON DUPLICATE KEY UPDATE ");
        query
    }

    /// Whatever the statistics say, only the rows meant are read: others would be locked.
    fn update(&self) -> Query {
        let table = self.table.as_str();
        QueryBuilder::new(format!("UPDATE `{table}` FORCE INDEX (PRIMARY) SET "))
    }

    /// The end of what is set, and the rows it is set in: a look-up by the key for each range. Offsets come first,
    /// for they tell ranges apart soonest.
    fn within(&self, query: &mut Query, ranges: &[Ends<'_>]) {
        query.push(", updated_at = ").push_bind(self.now_ms);
        query.push(" WHERE (");
        let mut either = query.separated(" OR ");
        for (topic, partition, first, last) in ranges {
            either
                .push("(source_offset BETWEEN ")
                .push_bind_unseparated(*first)
                .push_unseparated(" AND ")
                .push_bind_unseparated(*last)
                .push_unseparated(" AND source_partition = ")
                .push_bind_unseparated(*partition)
                .push_unseparated(" AND source_topic = ")
                .push_bind_unseparated(*topic)
                .push_unseparated(")");
        }
        query.push(")");
        self.own(query);
    }
}

const KEY: &str = "cluster_id, consumer_group, source_topic, source_partition, source_offset, record_timestamp_ms";

const OTHER_COLUMNS: &str = "target_topic, message_key, headers, status, attempts, dedup_key, origin_dedup_key, \
     error_class, error_message, error_chain, payload, dead_lettered, fence, passed_at, created_at, updated_at";

/// In the order of the columns.
fn bind(
    mut value: Separated<'_, MySql, &'static str>,
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
pub(super) fn ends(range: &OffsetRange) -> Ends<'_> {
    let SourcePartition { topic, partition } = &range.partition;
    (topic, *partition, range.from, range.next.saturating_sub(1))
}

/// A position as a range of one.
pub(super) fn single(position: &SourcePosition) -> Ends<'_> {
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
