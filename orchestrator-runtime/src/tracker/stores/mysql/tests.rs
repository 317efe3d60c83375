//! Tests of the MySQL store against a real MariaDB: every case of the conformance suite, and what only this store
//! has.
#![allow(clippy::unwrap_used)]

use orchestrator_testkit::mariadb::MariaDb;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};

use super::super::super::fake_store::{identity, orders};
use super::super::conformance::{Harness, Stored, conformance, range, rows, taken};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

conformance!(Database);

/// The URL of a database on the server that all tests share.
pub(super) struct Database(pub(super) String);

impl Database {
    pub(super) async fn connect(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.0).await.unwrap()
    }

    /// The first column of what a statement gives, as text.
    pub(super) async fn texts(&self, sql: &str) -> Vec<String> {
        texts(&mut self.connect().await, sql).await
    }
}

pub(super) async fn texts(connection: &mut MySqlConnection, sql: &str) -> Vec<String> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection);
    let rows = rows.await.unwrap();
    rows.iter()
        .map(|row| row.try_get_unchecked(0).unwrap())
        .collect()
}

impl Harness for Database {
    type Store = MySqlStore;

    async fn new() -> Self {
        Self(MariaDb::shared().create_database("ledger").unwrap())
    }

    fn store(&self, table: &str) -> MySqlStore {
        MySqlStore::new(&self.0, table, TIMEOUT).unwrap()
    }

    async fn stored(&self, table: &str) -> Vec<Stored> {
        let sql = format!("SELECT * FROM `{table}`");
        let mut connection = self.connect().await;
        let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection);
        rows.await.unwrap()
    }
}

/// How many rows the server has looked at on this connection.
async fn looked_at(connection: &mut MySqlConnection) -> u64 {
    let sql = "SHOW SESSION STATUS LIKE 'Handler_read%'";
    let counts = sqlx::raw_sql(sql).fetch_all(connection).await.unwrap();
    let counts = counts.iter().map(|row| row.get::<String, _>(1));
    counts.map(|count| count.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn statements_look_at_their_own_rows_only() {
    let (database, store) = Database::ready().await;
    let ledger = identity();
    for chunk in 0..5 {
        let rows = taken(chunk * 1000..(chunk + 1) * 1000, chunk);
        store.insert_received(&ledger, &rows, chunk).await.unwrap();
    }
    let ranges = [range(0, 3000)];
    store.succeed(&ledger, &ranges, 100).await.unwrap();
    let failed = rows(3000..3010, 4);
    store.upsert_failed(&ledger, &failed, 5).await.unwrap();

    let statements = store.statements(&ledger, 100);
    let topic = orders().topic;
    let two = [(&*topic, 0, 3000, 3009), (&*topic, 0, 3500, 3509)];
    let from = orders().at(3000);
    for (what, mut query) in [
        ("pass_failed", statements.pass_failed(&two)),
        ("succeed", statements.succeed(&two)),
        ("settle", statements.settle(&two, Settlement::Stale, 9)),
        ("prune", statements.prune(0..9, 10)),
        ("page", statements.page(&from, 10)),
        ("provisional", statements.provisional(&from, 10)),
    ] {
        // On a connection of its own, and undone.
        let mut connection = database.connect().await;
        texts(&mut connection, "BEGIN").await;
        let before = looked_at(&mut connection).await;
        query.build().fetch_all(&mut connection).await.unwrap();
        let looked = looked_at(&mut connection).await - before;
        // Of 5,000; asking how many is counted too.
        assert!((10..60).contains(&looked), "{what}: {looked}");
    }
}
