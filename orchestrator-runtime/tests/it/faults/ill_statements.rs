//! What the statements of others can be made to suffer by SQL, on a PostgreSQL.

use sqlx::{AssertSqlSafe, Executor, PgConnection};

/// From now on each statement that writes failures takes so long, until [`FAST`].
pub(crate) fn slow(seconds: f64) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END';
        CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON event_failures \
        FOR EACH STATEMENT EXECUTE FUNCTION slow()"
    )
}

pub(crate) const FAST: &str = "DROP TRIGGER slow ON event_failures";

/// Whether COMMIT takes effect and is not answered, until the statement's time is up: with a standby to wait for.
pub(crate) async fn commits_hang(admin: &mut PgConnection, hang: bool) {
    let standby = if hang { "one_that_is_not_there" } else { "" };
    let alter = format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'");
    admin.execute(AssertSqlSafe(alter)).await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
}
