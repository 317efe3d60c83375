//! What the README tells operators to ask and to grant is understood by the databases. Test only.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use orchestrator_core::FailureStore;
use sqlx::{AssertSqlSafe, Connection};

use super::super::fake_store::identity;
use super::conformance::{TABLE, row, taken};

const TIMEOUT: Duration = Duration::from_secs(9);

/// The README's SQL that begins like this.
fn sql(begin: &str) -> Vec<&'static str> {
    let readme = include_str!("../../../../README.md");
    let blocks = readme.split("```sql\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    blocks.filter(|block| block.starts_with(begin)).collect()
}

fn questions() -> Vec<&'static str> {
    let questions = sql("SELECT");
    assert!(questions.len() >= 4, "{questions:?}");
    questions
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn sqlite_understands_the_questions_of_the_readme() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let store = super::SqliteStore::new(&url, TABLE, TIMEOUT).unwrap();
    store.prepare().await.unwrap();
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for question in questions() {
        let asked = sqlx::raw_sql(AssertSqlSafe(question)).execute(&mut connection);
        asked.await.unwrap();
    }
}

/// And whoever may do no more than it says can keep a ledger that somebody else has made.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn postgres_understands_the_questions_and_grants_of_the_readme() {
    let server = orchestrator_testkit::postgres::Postgres::shared();
    let url = server.create_database("readme").unwrap();
    let owners = super::PostgresStore::new(&url, TABLE, TIMEOUT).unwrap();
    owners.prepare().await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    for question in questions() {
        let asked = sqlx::raw_sql(AssertSqlSafe(question)).execute(&mut connection);
        asked.await.unwrap();
    }
    let database: String = sqlx::query_scalar("SELECT current_database()::text")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let role = format!("role_{database}");
    for grants in sql("CREATE ROLE") {
        let grants = grants.replace("ON DATABASE ledger", &format!("ON DATABASE {database}"));
        let grants = grants.replace("ROLE orchestrator", &format!("ROLE {role}"));
        let grants = grants.replace("TO orchestrator", &format!("TO {role}"));
        let granted = sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut connection);
        granted.await.unwrap();
    }
    let url = server.url_as(&role, "change-me", &database);
    let store = super::PostgresStore::new(&url, TABLE, TIMEOUT).unwrap();
    store.prepare().await.unwrap();
    let (ledger, failed, taken) = (identity(), [row(1, 1)], taken([2], 1));
    store.upsert_failed(&ledger, &failed, 1).await.unwrap();
    store.insert_received(&ledger, &taken, 1).await.unwrap();
    let all = [super::conformance::range(1, 3)];
    store.succeed(&ledger, &all, 2).await.unwrap();
    assert_eq!(store.prune(&ledger, 0..9, 9).await.unwrap(), 2);
    // It may make no tables.
    let other = super::PostgresStore::new(&url, "others", TIMEOUT).unwrap();
    let error = other.prepare().await.unwrap_err();
    assert!(error.message.contains("CREATE on the schema"), "{error}");
}

#[cfg(feature = "mysql")]
#[tokio::test]
async fn mysql_understands_the_questions_of_the_readme() {
    let server = orchestrator_testkit::mariadb::MariaDb::shared();
    let url = server.create_database("readme").unwrap();
    let store = super::MySqlStore::new(&url, TABLE, TIMEOUT).unwrap();
    store.prepare().await.unwrap();
    let mut connection = sqlx::MySqlConnection::connect(&url).await.unwrap();
    for question in questions() {
        let asked = sqlx::raw_sql(AssertSqlSafe(question)).execute(&mut connection);
        asked.await.unwrap();
    }
}
