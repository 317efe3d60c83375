//! Tests of the MySQL store against a real MariaDB: every case of the conformance suite, and what only this store
//! has.
#![allow(clippy::unwrap_used)]

use orchestrator_testkit::mariadb::MariaDb;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use super::super::conformance::{Harness, Stored, conformance};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

conformance!(Database);

/// The URL of a database on the server that all tests share.
struct Database(String);

impl Harness for Database {
    type Store = MySqlStore;

    async fn new() -> Self {
        Self(MariaDb::shared().create_database("ledger").unwrap())
    }

    fn store(&self, table: &str) -> MySqlStore {
        MySqlStore::new(&self.0, table, TIMEOUT).unwrap()
    }

    async fn rows(&self, table: &str) -> Vec<Stored> {
        let sql = format!(
            "SELECT * FROM `{table}` ORDER BY source_topic, source_partition, source_offset"
        );
        let mut connection = MySqlConnection::connect(&self.0).await.unwrap();
        sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(&mut connection)
            .await
            .unwrap()
    }
}
