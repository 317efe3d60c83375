//! The ledger in PostgreSQL: each call one statement, or a transaction of a few. Called through the guard, which times
//! statements out. It must never wait without bound, and never show the URL.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, Provisional, ReceivedPage, ReceivedRow, Settlement,
    SourcePosition, StoreError, StoreFuture, TrackerError,
};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgRow;
use sqlx::{Connection, Error, FromRow, PgConnection};

use super::TableName;
use super::connections::{Connections, Lease};
use error::classified;
use statement::{Answer, Statement};
use statements::Statements;

mod error;
mod migrate;
mod options;
mod ranges;
mod rows;
mod statement;
mod statements;

/// What a statement costs beside its rows is no longer felt here, and it is still well within its time.
const ROWS_PER_STATEMENT: usize = 1000;
/// How many statements may run at once, unless it is said otherwise. RELIABLE needs many, for commits that are
/// flushed together; they are opened when they are needed. A server has about a hundred for everybody.
const CONNECTIONS: usize = 20;

/// The ledger in PostgreSQL, 12 or newer.
///
/// The table is made by whoever starts first and may: that takes `CREATE` on the schema. Afterwards this is enough for
/// the role that runs the program:
/// ```sql
/// GRANT USAGE ON SCHEMA ledger TO orchestrator;
/// GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.event_failures TO orchestrator;
/// GRANT SELECT ON ledger._orchestrator_migrations TO orchestrator;
/// ```
/// The schema is the first of the `search_path`, which the URL may set: `?options=-csearch_path%3Dledger`. Settings of
/// the URL win over the store's own. TLS is asked for by `sslmode=verify-full` with `sslrootcert`, `sslcert` and
/// `sslkey` as libpq has them; without `sslrootcert`, the usual public authorities are believed.
pub struct PostgresStore {
    connections: Connections<PgConnection>,
    statements: Statements,
    migrator: Migrator,
    migrations: String,
}

impl PostgresStore {
    /// A store in the database that `url` names, in the table `table`. Nothing is opened yet. A statement is given up
    /// by the server a little before `timeout`.
    ///
    /// # Errors
    /// A name that is no table's, a URL that is not PostgreSQL's.
    pub fn new(url: &str, table: &str, timeout: Duration) -> Result<Self, TrackerError> {
        let table = TableName::parse(table)?;
        let options = options::parse(url, timeout)?;
        Ok(Self {
            connections: Connections::new(options, CONNECTIONS, options::give_up(timeout)),
            migrations: migrate::quoted(&table),
            migrator: migrate::migrator(&table),
            statements: Statements::new(table),
        })
    }

    /// The same, with at most `count` connections to the server.
    #[must_use]
    pub fn with_connections(mut self, count: usize) -> Self {
        self.connections = self.connections.with_count(count);
        self
    }

    /// Executes statements, all or none.
    async fn execute(
        &self,
        statements: impl Fn() -> Result<Vec<Statement>, Error>,
    ) -> Result<u64, StoreError> {
        let answers = self.run(statements).await?;
        Ok(answers.iter().map(|answer| answer.affected).sum())
    }

    async fn fetch<T>(
        &self,
        statement: impl Fn() -> Result<Statement, Error>,
    ) -> Result<Vec<T>, StoreError>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        let answers = self.run(|| Ok(vec![statement()?])).await?;
        let rows = answers.iter().flat_map(|answer| &answer.rows);
        rows.map(T::from_row)
            .collect::<Result<_, _>>()
            .map_err(classified)
    }

    /// Does it once more, on a new connection, if one that had been idle turns out to be dead: its server was started
    /// anew, say. Whether the statement took effect does not matter, since it may be repeated.
    async fn run(
        &self,
        statements: impl Fn() -> Result<Vec<Statement>, Error>,
    ) -> Result<Vec<Answer>, StoreError> {
        let statements = || statements().map_err(classified);
        let first = statements()?;
        if first.is_empty() {
            return Ok(Vec::new());
        }
        let mut lease = self.connections.lease().await.map_err(classified)?;
        let mut result = run(lease.connection(), first).await;
        if result.as_ref().is_err_and(error::is_lost) {
            match lease.renew().await {
                None => return result.map_err(classified),
                Some(renewed) => lease = renewed.map_err(classified)?,
            }
            result = run(lease.connection(), statements()?).await;
        }
        finish(lease, result)
    }
}

/// Gives the connection back if it works.
fn finish<T>(lease: Lease<'_, PgConnection>, result: Result<T, Error>) -> Result<T, StoreError> {
    if !result.as_ref().is_err_and(error::is_lost) {
        lease.give_back();
    }
    result.map_err(classified)
}

/// One statement by itself, several in a transaction.
async fn run(
    connection: &mut PgConnection,
    statements: Vec<Statement>,
) -> Result<Vec<Answer>, Error> {
    if statements.len() == 1 {
        return each(connection, statements).await;
    }
    let mut transaction = connection.begin().await?;
    match each(&mut transaction, statements).await {
        Ok(answers) => {
            transaction.commit().await?;
            Ok(answers)
        }
        Err(error) => {
            // What went wrong first is what is told: if this does too, the connection is closed.
            match transaction.rollback().await {
                Err(lost) if !error::is_lost(&error) => Err(lost),
                _ => Err(error),
            }
        }
    }
}

async fn each(
    connection: &mut PgConnection,
    statements: Vec<Statement>,
) -> Result<Vec<Answer>, Error> {
    let mut answers = Vec::with_capacity(statements.len());
    for statement in statements {
        answers.push(statement.run(connection).await?);
    }
    Ok(answers)
}

impl FailureStore for PostgresStore {
    fn prepare(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.migrate())
    }

    fn rows_per_statement(&self) -> usize {
        ROWS_PER_STATEMENT
    }

    fn connections(&self) -> usize {
        self.connections.count()
    }

    fn insert_received<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = move || self.statements.insert_received(ledger, rows, now_ms);
        Box::pin(async move { self.execute(statements).await.map(drop) })
    }

    fn upsert_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = move || self.statements.upsert_failed(ledger, rows, now_ms);
        Box::pin(async move { self.execute(statements).await.map(drop) })
    }

    fn pass_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        at_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = move || self.statements.pass_failed(ledger, positions, at_ms);
        Box::pin(async move { self.execute(statements).await.map(drop) })
    }

    fn succeed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        at_ms: i64,
    ) -> StoreFuture<'a, ()> {
        let statements = move || self.statements.succeed(ledger, ranges, at_ms);
        Box::pin(async move { self.execute(statements).await.map(drop) })
    }

    fn provisional<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Provisional>> {
        Box::pin(async move {
            let statement = move || self.statements.provisional(ledger, from, limit);
            let rows: Vec<(i64, i64)> = self.fetch(statement).await?;
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
            let statement = move || self.statements.page(ledger, from, limit);
            let page: Vec<(i64, bool, i64)> = self.fetch(statement).await?;
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
        let statements = move || {
            self.statements
                .settle(ledger, positions, settlement, before_ms, now_ms)
        };
        Box::pin(async move { self.execute(statements).await.map(drop) })
    }

    fn prune<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        created_ms: Range<i64>,
        limit: usize,
    ) -> StoreFuture<'a, u64> {
        let statement = move || {
            let statement = self.statements.prune(ledger, &created_ms, limit)?;
            Ok(vec![statement])
        };
        Box::pin(async move { self.execute(statement).await })
    }
}

/// Without its options, which hold the password.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("statements", &self.statements)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod tests;
