//! Tests of the PostgreSQL store against a real server: every case of the conformance suite, and what only PostgreSQL
//! has.
#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;

use orchestrator_testkit::postgres::Postgres;
use sqlx::AssertSqlSafe;

use super::super::conformance::{Harness, Stored, conformance};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

conformance!(Schema);

/// A schema of its own in a database that all tests of this binary share.
pub(super) struct Schema {
    url: String,
}

fn database() -> &'static str {
    static DATABASE: OnceLock<String> = OnceLock::new();
    DATABASE.get_or_init(|| Postgres::shared().create_database("ledger").unwrap())
}

impl Schema {
    pub(super) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }
}

impl Harness for Schema {
    type Store = PostgresStore;

    async fn new() -> Self {
        let name = format!("s{:x}", fastrand::u64(..));
        let mut admin = PgConnection::connect(database()).await.unwrap();
        let create = format!("CREATE SCHEMA {name}");
        sqlx::raw_sql(AssertSqlSafe(create))
            .execute(&mut admin)
            .await
            .unwrap();
        let url = format!("{}?options=-csearch_path%3D{name}", database());
        Self { url }
    }

    fn store(&self, table: &str) -> PostgresStore {
        PostgresStore::new(&self.url, table, TIMEOUT).unwrap()
    }

    async fn stored(&self, table: &str) -> Vec<Stored> {
        let sql = format!("SELECT * FROM \"{table}\"");
        let mut connection = self.connect().await;
        let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection);
        rows.await.unwrap()
    }
}
