//! The ledger in MySQL or MariaDB. Called through the guard, which times statements out. It must never wait without
//! bound, and never show the URL or what a row contains.

use std::ops::Range;
use std::time::Duration;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, Provisional, ReceivedPage, ReceivedRow, Settlement,
    SourcePosition, StoreError, StoreFuture, TrackerError,
};
use sqlx::Connection;

use super::TableName;
use schema::Schema;
use server::{Queries, Server};
use statements::{Ends, Query, Statements, ends, single};

mod batches;
mod error;
mod schema;
mod server;
mod statements;

/// How many statements may run at once, unless it is said otherwise. Opened when they are needed.
const CONNECTIONS: usize = 20;

/// A table's name is 64 characters at most, and that of the migrations has 25 more than the ledger's.
const TABLE_NAME_MAX: usize = 39;

/// See the module.
#[derive(Debug)]
pub struct MySqlStore {
    server: Server,
    table: TableName,
    schema: Schema,
}

impl MySqlStore {
    /// A store in the database that `url` names, in the table `table`. Nothing is opened yet. A statement is given up
    /// by the server a little before `timeout`.
    ///
    /// The URL is `mysql://user:password@host:3306/database`, or `mariadb://..`, and its parameters are `socket`
    /// (a path), `ssl-mode` (`DISABLED`, `PREFERRED`, which is what it is unless set, `REQUIRED`, `VERIFY_CA`,
    /// `VERIFY_IDENTITY`), `ssl-ca`, `ssl-cert` and `ssl-key` (paths of PEM files).
    ///
    /// # Errors
    /// A name that is no table's, a URL that is not MySQL's.
    pub fn new(url: &str, table: &str, timeout: Duration) -> Result<Self, TrackerError> {
        let table = TableName::parse(table)?;
        if table.as_str().len() > TABLE_NAME_MAX {
            let message =
                format!("ORCH_ERROR_TABLE must be {TABLE_NAME_MAX} characters at most on MySQL");
            return Err(TrackerError { message });
        }
        Ok(Self {
            server: Server::new(url, timeout, CONNECTIONS)?,
            schema: Schema::new(&table),
            table,
        })
    }

    /// The same, with at most `count` connections to the server.
    #[must_use]
    pub fn with_connections(mut self, count: usize) -> Self {
        self.server = self.server.with_connections(count);
        self
    }

    fn statements<'a>(&'a self, ledger: &'a LedgerIdentity, now_ms: i64) -> Statements<'a> {
        Statements {
            table: &self.table,
            ledger,
            now_ms,
        }
    }

    /// Executes a statement on all rows, or several in one transaction.
    async fn write(
        &self,
        ledger: &LedgerIdentity,
        rows: &[LedgerRow],
        statement: impl Fn(&[&LedgerRow]) -> Query + Copy + Send,
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let queries = move |packet| -> Result<Queries<'_>, StoreError> {
            let batches = batches::of_rows(rows, ledger, packet)?;
            Ok(Box::new(
                batches.into_iter().map(move |batch| statement(&batch)),
            ))
        };
        self.server.execute(queries).await.map(drop)
    }

    /// Executes a statement on all ranges, or several in one transaction.
    async fn mark<'a>(
        &self,
        ranges: impl Iterator<Item = Ends<'a>>,
        statement: impl Fn(&[Ends<'_>]) -> Query + Copy + Send,
    ) -> Result<(), StoreError> {
        let batches = batches::of_ranges(ranges);
        if batches.is_empty() {
            return Ok(());
        }
        let queries = |_| -> Result<Queries<'_>, StoreError> {
            Ok(Box::new(batches.iter().map(move |batch| statement(batch))))
        };
        self.server.execute(queries).await.map(drop)
    }
}

impl FailureStore for MySqlStore {
    fn prepare(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            let mut connection = self.server.connect().await?;
            self.schema.bring_up_to_date(&mut connection).await?;
            connection.close().await.map_err(error::classified)?;
            self.server.try_out().await
        })
    }

    fn connections(&self) -> usize {
        self.server.connections()
    }

    fn insert_received<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = self.statements(ledger, now_ms);
        let statement = move |rows: &[&LedgerRow]| statements.insert_received(rows);
        Box::pin(self.write(ledger, rows, statement))
    }

    fn upsert_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = self.statements(ledger, now_ms);
        let statement = move |rows: &[&LedgerRow]| statements.upsert_failed(rows);
        Box::pin(self.write(ledger, rows, statement))
    }

    fn pass_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        at_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = self.statements(ledger, at_ms);
        let statement = move |ranges: &[Ends<'_>]| statements.pass_failed(ranges);
        Box::pin(self.mark(positions.iter().map(single), statement))
    }

    fn succeed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        at_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = self.statements(ledger, at_ms);
        let statement = move |ranges: &[Ends<'_>]| statements.succeed(ranges);
        Box::pin(self.mark(ranges.iter().map(ends), statement))
    }

    fn provisional<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Provisional>> {
        Box::pin(async move {
            let query = || self.statements(ledger, 0).provisional(from, limit);
            let rows: Vec<(i64, i64)> = self.server.fetch(query).await?;
            let row = |(offset, fence)| Provisional { offset, fence };
            Ok(rows.into_iter().map(row).collect())
        })
    }

    fn received_page<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, ReceivedPage> {
        Box::pin(async move {
            let query = || self.statements(ledger, 0).page(from, limit);
            let page: Vec<(i64, bool, i64)> = self.server.fetch(query).await?;
            let last = page.last().filter(|_| page.len() == limit);
            let next = last.map(|(offset, ..)| offset + 1);
            let received = page.into_iter().filter(|(_, is_received, _)| *is_received);
            let rows = received.map(|(offset, _, updated_at_ms)| ReceivedRow {
                offset,
                updated_at_ms,
            });
            Ok(ReceivedPage {
                rows: rows.collect(),
                next,
            })
        })
    }

    fn settle<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        settlement: Settlement,
        before_ms: i64,
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = self.statements(ledger, now_ms);
        let statement = move |ranges: &[Ends<'_>]| statements.settle(ranges, settlement, before_ms);
        Box::pin(self.mark(positions.iter().map(single), statement))
    }

    fn prune<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        created_ms: Range<i64>,
        limit: usize,
    ) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            let queries = |_| -> Result<Queries<'_>, StoreError> {
                let query = self.statements(ledger, 0).prune(created_ms.clone(), limit);
                Ok(Box::new(std::iter::once(query)))
            };
            self.server.execute(queries).await
        })
    }
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
