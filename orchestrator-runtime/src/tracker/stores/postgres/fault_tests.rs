//! Tests of the PostgreSQL store when something is wrong with the server, the way to it, or what it may do there: the
//! right class, a remedy, no secret, and all is well again afterwards.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use futures_util::future::join;
use orchestrator_core::StoreErrorClass;
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
use sqlx::AssertSqlSafe;
use tokio::time::timeout;

use super::super::super::fake_store::identity;
use super::super::conformance::{Harness, TABLE, range, rows, taken};
use super::tests::{IMPATIENT, Schema};
use super::*;

/// The error is of this class, and says this.
#[track_caller]
fn check<T: fmt::Debug>(result: Result<T, StoreError>, class: StoreErrorClass, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.class, class, "{error}");
    assert!(error.message.contains(says), "{error}");
    assert!(!error.message.contains("s3cret"), "{error}");
}

async fn write(store: &PostgresStore) -> Result<(), StoreError> {
    store.upsert_failed(&identity(), &rows(0..3, 1), 1).await
}

/// Which backend the next statement goes to.
async fn backend(store: &PostgresStore) -> i32 {
    let mut lease = store.connections.lease().await.unwrap();
    let id = id(lease.connection()).await;
    lease.give_back();
    id
}

async fn id(connection: &mut PgConnection) -> i32 {
    let id = sqlx::query_scalar("SELECT pg_backend_pid()");
    id.fetch_one(connection).await.unwrap()
}

/// Every write, or its commit, takes five seconds while the table `naps` has a row.
fn naps(trigger: &str, deferred: &str) -> String {
    format!(
        "CREATE TABLE naps (x int); INSERT INTO naps VALUES (1); \
         CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF EXISTS (SELECT FROM naps) THEN PERFORM pg_sleep(5); END IF; RETURN NULL; END $$; \
         CREATE {trigger} nap AFTER INSERT OR UPDATE ON event_failures {deferred} \
         FOR EACH ROW EXECUTE FUNCTION nap()"
    )
}

#[tokio::test]
async fn the_server_gives_a_slow_statement_up_before_we_do() {
    let (schema, _) = Schema::ready().await;
    schema.sql(&naps("TRIGGER", "")).await;
    let store = schema.impatient("");
    let id = backend(&store).await;
    let started = Instant::now();
    let result = write(&store).await;
    assert!(started.elapsed() < IMPATIENT, "{:?}", started.elapsed());
    check(result, StoreErrorClass::Timeout, "ORCH_DB_TIMEOUT_MS");
    assert_eq!(backend(&store).await, id, "it answered, and is good");
    schema.sql("DELETE FROM naps").await;
    write(&store).await.unwrap();
}

#[tokio::test]
async fn a_lock_that_others_hold_is_told_from_a_slow_statement() {
    let (schema, _) = Schema::ready().await;
    let store = schema.impatient("");
    let mut other = schema.connect().await;
    let mut holder = other.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE event_failures IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *holder)
        .await
        .unwrap();
    check(
        write(&store).await,
        StoreErrorClass::Timeout,
        "holds the lock",
    );
    holder.rollback().await.unwrap();
    write(&store).await.unwrap();
}

/// Waits until a backend of this schema does what `condition` says of `pg_stat_activity`, and ends it.
async fn end_one(schema: &Schema, condition: &str) {
    let mut admin = schema.connect().await;
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND query LIKE '%event_failures%' AND {condition} LIMIT 1"
    );
    loop {
        let ended: Option<bool> = sqlx::query_scalar(AssertSqlSafe(&*end))
            .fetch_optional(&mut admin)
            .await
            .unwrap();
        if ended == Some(true) {
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_the_commit_is_renewed() {
    let (schema, store) = Schema::ready().await;
    for round in 1..=5 {
        write(&store).await.unwrap();
        schema
            .sql("DROP TABLE IF EXISTS naps CASCADE; DROP FUNCTION IF EXISTS nap CASCADE")
            .await;
        let at_commit = naps("CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED");
        schema.sql(&at_commit).await;
        let mine = backend(&store).await;
        let ending = async {
            end_one(&schema, &format!("wait_event = 'PgSleep' AND pid = {mine}")).await;
            schema.sql("DELETE FROM naps").await;
        };
        let batch = taken(round * 10..round * 10 + 3, 1);
        let (ledger, ranges) = (identity(), [range(0, 100)]);
        let written = async {
            // The new connection may meet the nap, too, until it is taken away.
            store.insert_received(&ledger, &batch, 1).await
        };
        let (written, ()) = join(written, ending).await;
        written.unwrap();
        store.succeed(&ledger, &ranges, 2).await.unwrap();
        assert_eq!(schema.rows(TABLE).await.len() as i64, 3 + round * 3);
    }
}

/// The commit is there, and its answer is not: it waits for a standby that does not exist.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_repeated() {
    const WAITS: &str = "wait_event = 'SyncRep'";
    let server = Postgres::start(PostgresOptions::new().own()).unwrap();
    let database = server.create_database("ledger").unwrap();
    let schema = Schema {
        name: "public".into(),
        url: format!("{database}?options=-csynchronous_commit%3Dlocal"),
    };
    schema.store(TABLE).prepare().await.unwrap();
    schema
        .sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await;
    schema.sql("SELECT pg_reload_conf()").await;
    // That takes a moment.
    schema.sql("CREATE TABLE event_failures_too (x int)").await;
    let mut other = PgConnection::connect(&database).await.unwrap();
    let waits = async {
        let write = "INSERT INTO event_failures_too VALUES (1)";
        while sqlx::raw_sql(write).execute(&mut other).await.is_ok() {}
    };
    join(waits, end_one(&schema, WAITS)).await;

    let store = PostgresStore::new(&database, TABLE, Duration::from_secs(30)).unwrap();
    let mut counts = Vec::new();
    for _ in 0..10 {
        let mine = backend(&store).await;
        let ending = async {
            end_one(&schema, &format!("{WAITS} AND pid = {mine}")).await;
            end_one(&schema, WAITS).await;
        };
        let (written, ()) = join(write(&store), ending).await;
        // Twice is too often for one call.
        check(written, StoreErrorClass::Unavailable, "PostgreSQL");
        counts.push(schema.rows(TABLE).await.len());
    }
    assert_eq!(counts, [3; 10], "each record once, whatever was answered");
    schema
        .sql("ALTER SYSTEM RESET synchronous_standby_names")
        .await;
    schema.sql("SELECT pg_reload_conf()").await;
    write(&store).await.unwrap();
}

#[tokio::test]
async fn connections_that_died_while_idle_are_not_noticed() {
    let (schema, store) = Schema::ready().await;
    let (mut leases, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..store.connections() {
        let mut lease = store.connections.lease().await.unwrap();
        ids.push(id(lease.connection()).await);
        leases.push(lease);
    }
    leases.into_iter().for_each(Lease::give_back);
    for id in ids {
        schema
            .sql(&format!("SELECT pg_terminate_backend({id}, 5000)"))
            .await;
    }
    let all_at_once = (0..store.connections()).map(|_| write(&store));
    futures_util::future::try_join_all(all_at_once)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_that_was_given_up_is_never_used_again() {
    let (_schema, store) = Schema::ready().await;
    let first = backend(&store).await;
    assert_eq!(backend(&store).await, first, "one serves all, one by one");
    drop(store.connections.lease().await.unwrap());
    assert_ne!(backend(&store).await, first);
}

/// A server that is busy: it takes longer to let somebody in than a statement may.
#[tokio::test]
async fn a_connection_that_is_opened_too_late_serves_the_next_statement() {
    let (schema, _) = Schema::ready().await;
    let slow = schema.impatient("%20-cpost_auth_delay%3D1");
    let store = slow.with_connections(1);
    let mut tries = 0;
    let began = Instant::now();
    while !matches!(timeout(IMPATIENT, write(&store)).await, Ok(Ok(()))) {
        tries += 1;
        assert!(began.elapsed() < Duration::from_secs(30), "{tries} tries");
    }
    assert!(tries > 0, "void: in time");
}

#[tokio::test]
async fn exhaustion_has_a_class_of_its_own() {
    let (schema, _) = Schema::ready().await;
    let store = schema.impatient("");
    let mut leases = Vec::new();
    for _ in 0..store.connections() {
        leases.push(store.connections.lease().await.unwrap());
    }
    let started = Instant::now();
    check(write(&store).await, StoreErrorClass::Exhausted, "in use");
    assert!(started.elapsed() < IMPATIENT, "{:?}", started.elapsed());
    leases.pop();
    write(&store).await.unwrap();

    // Others use all that the server has.
    let store = schema.of_role("limited", &[]).await;
    let role = format!("limited_{}", schema.name);
    schema
        .sql(&format!("ALTER ROLE {role} CONNECTION LIMIT 1"))
        .await;
    let _only = store.connections.lease().await.unwrap();
    check(
        write(&store).await,
        StoreErrorClass::Exhausted,
        "max_connections",
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_had_says_why() {
    use StoreErrorClass::Unavailable;
    let schema = Schema::new().await;
    let read_only = schema.impatient("%20-cdefault_transaction_read_only%3Don");
    check(read_only.prepare().await, Unavailable, "primary");
    schema.store(TABLE).prepare().await.unwrap();
    check(write(&read_only).await, Unavailable, "primary");

    let at = |url: &str| PostgresStore::new(url, TABLE, IMPATIENT).unwrap();
    let refused = at("postgres://u:s3cret@127.0.0.1:1/s3cret");
    check(
        refused.prepare().await,
        Unavailable,
        "is the server of ORCH_DB_URL there",
    );
    let tls = at(&format!("{}&sslmode=require", schema.url));
    check(tls.prepare().await, Unavailable, "sslmode");
    let no_file = at(&format!(
        "{}&sslmode=verify-full&sslrootcert=/no/s3cret.pem",
        schema.url
    ));
    check(no_file.prepare().await, Unavailable, "ORCH_DB_URL");
    let (database, _) = schema.url.split_once('?').unwrap();
    let other = format!("{}/nosuch", database.rsplit_once('/').unwrap().0);
    check(
        at(&other).prepare().await,
        Unavailable,
        "create the database",
    );
    let schemaless = at(&format!("{database}?options=-csearch_path%3Dnosuch"));
    check(schemaless.prepare().await, Unavailable, "search_path");
    let server = Postgres::shared();
    let stranger = at(&server.url_as("nobody", "s3cret", "postgres"));
    check(
        stranger.prepare().await,
        Unavailable,
        "see user and password",
    );
}

#[tokio::test]
async fn the_least_that_a_role_needs_is_documented_and_enough() {
    let schema = Schema::new().await;
    let powerless = schema.of_role("powerless", &[]).await;
    check(
        powerless.prepare().await,
        StoreErrorClass::Unavailable,
        "CREATE on the schema",
    );
    schema.store(TABLE).prepare().await.unwrap();
    check(
        powerless.prepare().await,
        StoreErrorClass::Unavailable,
        "SELECT on its migrations",
    );

    let grants = [
        "SELECT, INSERT, UPDATE, DELETE ON ${schema}.event_failures",
        "SELECT ON ${schema}._orchestrator_migrations",
    ];
    let store = schema.of_role("least", &grants).await;
    store.prepare().await.unwrap();
    let ledger = identity();
    store
        .insert_received(&ledger, &taken(0..9, 1), 1)
        .await
        .unwrap();
    write(&store).await.unwrap();
    let at = [range(0, 0).partition.at(0)];
    store.pass_failed(&ledger, &at, 2).await.unwrap();
    store.succeed(&ledger, &[range(1, 5)], 2).await.unwrap();
    let position = range(0, 0).partition.at(5);
    let stale = Settlement::Stale;
    store
        .settle(&ledger, std::slice::from_ref(&position), stale, 5, 5)
        .await
        .unwrap();
    assert_eq!(
        store
            .provisional(&ledger, &position, 9)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        store
            .received_page(&ledger, &position, 9)
            .await
            .unwrap()
            .rows
            .len(),
        3
    );
    assert_eq!(store.prune(&ledger, 0..9, 9).await.unwrap(), 4);
}
