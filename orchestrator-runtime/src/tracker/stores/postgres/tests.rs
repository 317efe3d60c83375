//! Tests of the PostgreSQL store against a real server: every case of the conformance suite, and what only PostgreSQL
//! has.
#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;

use orchestrator_testkit::postgres::Postgres;
use sqlx::AssertSqlSafe;

use super::super::conformance::{Harness, Stored, TABLE, conformance};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const IMPATIENT: Duration = Duration::from_millis(300);

conformance!(Schema);

/// A schema of its own in a database that all tests of this binary share.
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) url: String,
}

fn database() -> &'static str {
    static DATABASE: OnceLock<String> = OnceLock::new();
    DATABASE.get_or_init(|| Postgres::shared().create_database("ledger").unwrap())
}

impl Schema {
    pub(super) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Runs SQL as somebody else.
    pub(super) async fn sql(&self, text: &str) {
        let mut connection = self.connect().await;
        let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection);
        done.await.unwrap();
    }

    /// A store whose statements time out soon, with more in its URL.
    pub(super) fn impatient(&self, more: &str) -> PostgresStore {
        PostgresStore::new(&format!("{}{more}", self.url), TABLE, IMPATIENT).unwrap()
    }

    /// A store of a new role, which may do what `grants` says.
    pub(super) async fn of_role(&self, role: &str, grants: &[&str]) -> PostgresStore {
        let role = format!("{role}_{}", self.name);
        self.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 's3cret'"))
            .await;
        for grant in ["USAGE ON SCHEMA ${schema}"].iter().chain(grants) {
            let grant = grant.replace("${schema}", &self.name);
            self.sql(&format!("GRANT {grant} TO {role}")).await;
        }
        let (database, parameters) = self.url.split_once('?').unwrap();
        let database = database.rsplit_once('/').unwrap().1;
        let url = Postgres::shared().url_as(&role, "s3cret", database);
        PostgresStore::new(&format!("{url}?{parameters}"), TABLE, TIMEOUT).unwrap()
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
        Self { name, url }
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

async fn shown(store: &PostgresStore, setting: &str) -> String {
    let mut lease = store.connections.lease().await.unwrap();
    let value = sqlx::query_scalar("SELECT current_setting($1)")
        .bind(setting)
        .fetch_one(lease.connection())
        .await;
    lease.give_back();
    value.unwrap()
}

#[tokio::test]
async fn settings_of_the_url_win() {
    let schema = Schema::new().await;
    let store = schema.impatient("");
    for (setting, value) in [
        ("statement_timeout", "240ms"),
        ("lock_timeout", "210ms"),
        ("idle_in_transaction_session_timeout", "3s"),
        ("jit", "off"),
        ("application_name", "orchestrator"),
        ("search_path", &schema.name),
    ] {
        assert_eq!(shown(&store, setting).await, value, "{setting}");
    }
    let store = schema.impatient("%20-cstatement_timeout%3D7s&options[jit]=on&application_name=me");
    for (setting, value) in [
        ("statement_timeout", "7s"),
        ("lock_timeout", "210ms"),
        ("jit", "on"),
        ("application_name", "me"),
    ] {
        assert_eq!(shown(&store, setting).await, value, "{setting}");
    }
}

#[tokio::test]
async fn each_table_has_its_migrations() {
    let schema = Schema::new().await;
    for table in [TABLE, "order"] {
        schema.store(table).prepare().await.unwrap();
    }
    let tables =
        "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1";
    let tables: Vec<String> = sqlx::query_scalar(tables)
        .fetch_all(&mut schema.connect().await)
        .await
        .unwrap();
    let expected = [
        "_orchestrator_migrations",
        "_orchestrator_migrations_order",
        "event_failures",
        "order",
    ];
    assert_eq!(tables, expected);
}

#[tokio::test]
async fn a_table_of_another_version_is_left_alone() {
    let (schema, store) = Schema::ready().await;
    schema
        .sql("UPDATE _orchestrator_migrations SET checksum = 'x'")
        .await;
    let error = store.prepare().await.unwrap_err();
    assert!(error.message.contains("another version"), "{error}");
    // A newer program has added something: this one goes on.
    schema
        .sql("DELETE FROM _orchestrator_migrations; DROP TABLE event_failures")
        .await;
    store.prepare().await.unwrap();
    schema
        .sql("INSERT INTO _orchestrator_migrations VALUES (99, '', now(), true, 'x', 0)")
        .await;
    store.prepare().await.unwrap();
}

#[test]
fn urls_are_refused_without_being_repeated() {
    for url in [
        "postgres://u:s3cret@host:port/db",
        "postgres://u:s3cret@[::1/db",
        "postgres://u@host/db?pasword=s3cret",
        "postgres://u@host/db?s3cret",
        "postgres://u@host/db?sslmode=s3cret",
        "postgres://u@host/db?port=s3cret",
    ] {
        let error = PostgresStore::new(url, TABLE, TIMEOUT).unwrap_err();
        assert!(error.message.contains("ORCH_DB_URL"), "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
    }
    let store = PostgresStore::new("postgresql://u:s3cret@host/s3cret", TABLE, TIMEOUT).unwrap();
    assert!(!format!("{store:?}").contains("s3cret"));
}
