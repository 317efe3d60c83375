//! The MySQL store with a server that fails in every way one can: each call ends in time, says what is wrong and what
//! to do without showing secrets, and works again when the trouble is over.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use futures_util::future::join_all;
use orchestrator_core::StoreErrorClass;
use orchestrator_testkit::mariadb::{MariaDb, MariaDbOptions};
use tokio::time::sleep;

use super::super::super::fake_store::{identity, orders};
use super::super::conformance::{Harness, TABLE, at, provisional, range, row, rows, taken};
use super::tests::{Database, texts};
use super::*;

/// Longer than `ORCH_DB_TIMEOUT_MS` is by default: tests share two cores.
const TIMEOUT: Duration = Duration::from_millis(500);

fn store(url: &str) -> MySqlStore {
    MySqlStore::new(url, TABLE, TIMEOUT).unwrap()
}

async fn ready(url: &str) -> MySqlStore {
    let store = store(url);
    store.prepare().await.unwrap();
    store
}

/// Waits until it is so. Asked without a pause, InnoDB would show what it showed before.
async fn until(so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !so().await {
            sleep(Duration::from_millis(150)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting);
    waited.await.unwrap();
}

/// A server that may be stopped and set.
fn own_server() -> (MariaDb, String) {
    let server = MariaDb::start(MariaDbOptions::new().own()).unwrap();
    let url = server.create_database("ledger").unwrap();
    (server, url)
}

fn name(url: &str) -> String {
    url.rsplit('/').next().unwrap().to_owned()
}

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, StoreError>, class: StoreErrorClass, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.class, class, "{error}");
    assert!(error.message.contains(says), "{error}");
}

#[tokio::test]
async fn a_lock_that_others_hold_is_not_waited_for() {
    let (database, _) = Database::ready().await;
    let store = ready(&database.0).await;
    let ledger = identity();
    let failed = [row(1, 1)];
    store.upsert_failed(&ledger, &failed, 1).await.unwrap();

    let mut other = database.connect().await;
    for lock in [
        "BEGIN; SELECT * FROM event_failures FOR UPDATE",
        "LOCK TABLES event_failures WRITE",
    ] {
        texts(&mut other, lock).await;
        let since = Instant::now();
        let locked = store.succeed(&ledger, &[range(0, 9)], 2).await;
        check(locked, StoreErrorClass::Timeout, "");
        assert!(since.elapsed() < TIMEOUT, "{:?}", since.elapsed());
        // Two statements, the second of which waits: nothing of the first stays, not even its locks.
        let many = rows((2..400).chain([1]), 2);
        let locked = store.upsert_failed(&ledger, &many, 2).await;
        check(locked, StoreErrorClass::Timeout, "");
        texts(&mut other, "COMMIT; UNLOCK TABLES").await;
        assert_eq!(database.summary().await, ["1 FAILED provisional fence 1"]);
    }
    store.succeed(&ledger, &[range(0, 9)], 2).await.unwrap();
}

#[tokio::test]
async fn a_deadlock_is_a_conflict() {
    let (database, store) = Database::ready().await;
    let ledger = identity();
    let all = taken(1..3, 1);
    store.insert_received(&ledger, &all, 1).await.unwrap();
    let mut other = database.connect().await;
    let change = "UPDATE event_failures SET attempts = attempts + 1 WHERE cluster_id = 'c' AND consumer_group = 'g' \
                  AND source_topic = 'orders' AND source_partition = 0 AND source_offset =";
    // The transaction that has changed more is not the one that is undone.
    let more = "CREATE TABLE weight (x INT); BEGIN; \
                INSERT INTO weight SELECT 1 FROM information_schema.columns LIMIT 500;";
    texts(&mut other, &format!("{more} {change} 2")).await;
    let ours = tokio::spawn(async move {
        let both = [range(1, 2), range(2, 3)];
        store.succeed(&identity(), &both, 2).await
    });
    // Ours has the first row and waits for the second.
    let waits = "SELECT COUNT(*) FROM information_schema.innodb_trx t \
                 JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id \
                 WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()";
    until(async || database.texts(waits).await == ["1"]).await;
    texts(&mut other, &format!("{change} 1; COMMIT")).await;
    check(ours.await.unwrap(), StoreErrorClass::Conflict, "undone");
}

/// Whatever the moment, it is as if the call had been made or not, and it may be made again.
#[tokio::test]
async fn a_connection_that_is_killed_loses_nothing() {
    let (database, store) = Database::ready().await;
    let ledger = identity();
    let mut killer = database.connect().await;
    let mut kills = 0;
    for round in 0..60 {
        let offsets = round * 600..(round + 1) * 600;
        let (all, ranges) = (
            taken(offsets.clone(), 1),
            [range(offsets.start, offsets.end)],
        );
        let failed = rows(offsets.clone().step_by(10), 1);
        let calls = async {
            store.insert_received(&ledger, &all, 1).await?;
            store.upsert_failed(&ledger, &failed, 1).await?;
            store.succeed(&ledger, &ranges, 2).await
        };
        let kill = async {
            sleep(Duration::from_micros(fastrand::u64(0..30_000))).await;
            let ids = "SELECT id FROM information_schema.processlist \
                       WHERE db = DATABASE() AND id <> CONNECTION_ID()";
            let mut killed = 0;
            for id in texts(&mut killer, ids).await {
                // It may have gone by itself.
                let kill = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("KILL {id}")));
                killed += u32::from(kill.execute(&mut killer).await.is_ok());
            }
            killed
        };
        let (called, killed) = tokio::join!(calls, kill);
        kills += killed;
        if let Err(error) = called {
            assert_eq!(error.class, StoreErrorClass::Unavailable, "{error}");
            // Again from the start, as a strategy does.
            store.insert_received(&ledger, &all, 1).await.unwrap();
            store.upsert_failed(&ledger, &failed, 1).await.unwrap();
            store.succeed(&ledger, &ranges, 2).await.unwrap();
        }
    }
    assert!(kills >= 50, "{kills}");
    let counts = "SELECT CONCAT(status, ' ', COUNT(*), ' ', SUM(passed_at = 2), ' ', COUNT(resolved_at)) \
                  FROM event_failures GROUP BY status";
    assert_eq!(database.texts(counts).await, ["SUCCESS 36000 36000 3600"]);
}

#[tokio::test]
async fn a_connection_that_died_while_idle_is_not_noticed() {
    let (database, store) = Database::ready().await;
    let ledger = identity();
    for round in 0..3 {
        let ended = MariaDb::shared().terminate_backends(&name(&database.0), "true");
        assert!(ended.unwrap() >= 1);
        let all = taken(0..4, round);
        store.insert_received(&ledger, &all, 1).await.unwrap();
    }
}

#[tokio::test]
async fn connections_that_are_all_in_use_are_told_from_slow_ones() {
    let (database, _) = Database::ready().await;
    let store = ready(&database.0).await;
    let mut other = database.connect().await;
    texts(&mut other, "LOCK TABLES event_failures WRITE").await;
    let ledger = identity();
    let all = taken(0..4, 1);
    let calls = (0..CONNECTIONS + 1).map(|_| store.insert_received(&ledger, &all, 1));
    let results = join_all(calls).await;
    let classes = results.into_iter().map(|result| result.unwrap_err().class);
    let exhausted = classes.filter(|class| *class == StoreErrorClass::Exhausted);
    assert_eq!(exhausted.count(), 1);
}

#[tokio::test]
async fn a_server_without_a_free_connection_says_so() {
    let server = MariaDb::shared();
    let (database, _) = Database::ready().await;
    let (user, db) = (format!("few{:x}", fastrand::u32(..)), name(&database.0));
    let create = format!(
        "CREATE USER {user}@'%' IDENTIFIED BY 's3cret' WITH MAX_USER_CONNECTIONS 1; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON {db}.* TO {user}@'%'"
    );
    server.sql(&db, &create).unwrap();
    let url = server.url_as(&user, "s3cret", &db);
    let store = store(&url);
    let idle = Database(url).connect().await;
    check(
        store.prepare().await,
        StoreErrorClass::Exhausted,
        "max_user_connections",
    );
    idle.close().await.unwrap();
    until(async || store.prepare().await.is_ok()).await;
    store
        .upsert_failed(&identity(), &[row(1, 1)], 1)
        .await
        .unwrap();
}

#[tokio::test]
async fn once_all_is_made_a_user_needs_no_more_than_the_rows() {
    let server = MariaDb::shared();
    let url = server.create_database("ledger").unwrap();
    let (user, db) = (format!("app{:x}", fastrand::u32(..)), name(&url));
    let create = format!(
        "CREATE USER {user}@'%' IDENTIFIED BY 's3cret'; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON {db}.* TO {user}@'%'"
    );
    server.sql(&db, &create).unwrap();
    let own = server.url_as(&user, "s3cret", &db);
    check(
        store(&own).prepare().await,
        StoreErrorClass::Unavailable,
        "CREATE",
    );
    ready(&url).await;
    let store = ready(&own).await;
    let ledger = identity();
    store
        .upsert_failed(&ledger, &rows(0..4, 1), 1)
        .await
        .unwrap();
    store.succeed(&ledger, &[range(0, 4)], 1).await.unwrap();
    assert_eq!(store.prune(&ledger, 0..9, 9).await.unwrap(), 4);
}

#[tokio::test]
async fn a_migration_that_was_cut_off_is_done_again() {
    for half in [
        // Noted as begun, nothing done; done, but not noted.
        "DROP TABLE event_failures; UPDATE _orchestrator_migrations SET success = FALSE",
        "DELETE FROM _orchestrator_migrations",
        "UPDATE _orchestrator_migrations SET success = FALSE",
        "DROP TABLE _orchestrator_migrations",
    ] {
        let (database, store) = Database::ready().await;
        database.texts(half).await;
        store.prepare().await.unwrap();
        store
            .upsert_failed(&identity(), &[row(1, 1)], 1)
            .await
            .unwrap();
        let notes = "SELECT CONCAT(version, ' ', success) FROM _orchestrator_migrations";
        assert_eq!(database.texts(notes).await, ["1 1"], "{half}");
    }
}

#[tokio::test]
async fn another_process_that_makes_the_table_is_waited_for_within_bounds() {
    let database = Database::new().await;
    let lock = "CONCAT('orchestrator.', LEFT(SHA2(CONCAT(DATABASE(), '.', '_orchestrator_migrations'), 256), 40))";
    let mut other = database.connect().await;
    texts(&mut other, &format!("SELECT GET_LOCK({lock}, 0)")).await;
    let prepared = store(&database.0).prepare().await;
    check(prepared, StoreErrorClass::Timeout, "another process");
    other.close().await.unwrap();
    until(async || store(&database.0).prepare().await.is_ok()).await;
}

#[tokio::test]
async fn passwords_and_values_are_in_no_message() {
    let (database, _) = Database::ready().await;
    let (before, after) = database.0.split_once('@').unwrap();
    let user = before
        .rsplit("//")
        .next()
        .unwrap()
        .split(':')
        .next()
        .unwrap();
    for (url, says) in [
        (
            format!("mysql://{user}:s3cret@{after}"),
            "user and password",
        ),
        (
            format!("mariadb://s3cret:s3cret@{after}"),
            "user and password",
        ),
        (format!("{before}@127.0.0.1:1/s3cret"), "no connection"),
        (
            database.0.rsplit_once('/').unwrap().0.to_owned() + "/s3cret",
            "create it",
        ),
        (
            format!("{}?ssl-mode=VERIFY_CA&ssl-ca=/s3cret.pem", database.0),
            "TLS",
        ),
    ] {
        let store = store(&url);
        assert!(!format!("{store:?}").contains("s3cret"));
        let error = store.prepare().await.unwrap_err();
        assert_eq!(error.class, StoreErrorClass::Unavailable, "{error}");
        assert!(error.message.contains(says), "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
    }
    for url in [
        "mysql://s3cret:s3cret@host",
        "mysql://u:s3cret@host:s3cret/db",
        "mysql://u:p@host/db?s3cret=1",
        "mysql://u:p@host/db?ssl-mode=s3cret",
    ] {
        let error = MySqlStore::new(url, TABLE, TIMEOUT).unwrap_err();
        assert!(error.message.contains("ORCH_DB_URL"), "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
    }
    // A column that was narrowed by hand: the server's message would quote the value.
    let store = ready(&database.0).await;
    database
        .texts("ALTER TABLE event_failures MODIFY error_class VARCHAR(3)")
        .await;
    let refused = store.upsert_failed(&identity(), &[row(1, 1)], 1).await;
    check(refused.clone(), StoreErrorClass::Data, "1406");
    assert!(!refused.unwrap_err().message.contains("permanent"));
}

#[tokio::test]
async fn a_server_that_comes_and_goes() {
    let (server, url) = own_server();
    let store = ready(&url).await;
    let ledger = identity();
    let failed = [row(1, 1)];
    store.upsert_failed(&ledger, &failed, 1).await.unwrap();

    server.stop_immediate().unwrap();
    let refused = store.upsert_failed(&ledger, &failed, 1).await;
    check(refused, StoreErrorClass::Unavailable, "no connection");
    check(
        store.prepare().await,
        StoreErrorClass::Unavailable,
        "no connection",
    );
    server.restart().unwrap();
    store.upsert_failed(&ledger, &failed, 1).await.unwrap();
    assert_eq!(provisional(&store, &ledger, orders().at(0), 9).await, [1]);

    // It stands still: the call is given up, and so is its connection.
    server.pause().unwrap();
    let still = tokio::time::timeout(TIMEOUT, store.upsert_failed(&ledger, &failed, 1)).await;
    assert!(still.is_err());
    server.resume().unwrap();
    store.pass_failed(&ledger, &at([1]), 5).await.unwrap();
    assert_eq!(
        provisional(&store, &ledger, orders().at(0), 9).await,
        [0i64; 0]
    );
}

#[tokio::test]
async fn a_server_that_is_set_otherwise() {
    let (server, url) = own_server();
    let (all, one) = (rows(0..40, 1), [row(1, 1)]);
    let ledger = identity();
    // What it is set to does not matter to us.
    let strange = "SET GLOBAL sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES', GLOBAL autocommit = 0, \
                   GLOBAL tx_isolation = 'SERIALIZABLE', GLOBAL collation_server = 'latin1_swedish_ci', \
                   GLOBAL max_allowed_packet = 65536, GLOBAL max_statement_time = 0";
    server.sql(&name(&url), strange).unwrap();
    let store = ready(&url).await;
    // Neither may a statement be larger than a packet, nor a row.
    let payload = |size: usize| Some(vec![7u8; size].into());
    let large: Vec<_> = all
        .into_iter()
        .map(|row| LedgerRow {
            payload: payload(20_000),
            ..row
        })
        .collect();
    store.upsert_failed(&ledger, &large, 1).await.unwrap();
    let found = Database(url.clone()).rows(TABLE).await;
    assert_eq!(found.len(), 40);
    assert!(found.iter().all(|row| {
        row.payload
            .as_ref()
            .is_some_and(|payload| payload.len() == 20_000)
    }));
    let [huge] = one.clone().map(|row| LedgerRow {
        payload: payload(70_000),
        fence: 2,
        ..row
    });
    let refused = store.upsert_failed(&ledger, &[huge.clone()], 1).await;
    check(refused, StoreErrorClass::Data, "max_allowed_packet");
    store
        .upsert_failed(&ledger, &[huge.clone().bare()], 1)
        .await
        .unwrap();
    // It takes less than it said.
    server
        .sql(&name(&url), "SET GLOBAL max_allowed_packet = 4096")
        .unwrap();
    server.terminate_backends(&name(&url), "true").unwrap();
    let refused = store.upsert_failed(&ledger, &large, 1).await;
    check(refused, StoreErrorClass::Data, "max_allowed_packet");
    store.upsert_failed(&ledger, &one, 1).await.unwrap();

    // Read-only, for all but administrators.
    let db = name(&url);
    let user = format!(
        "CREATE USER app@'%' IDENTIFIED BY 's3cret'; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON {db}.* TO app@'%'; SET GLOBAL read_only = 1"
    );
    server.sql(&db, &user).unwrap();
    let store = ready(&server.url_as("app", "s3cret", &db)).await;
    let refused = store.upsert_failed(&ledger, &one, 1).await;
    check(refused, StoreErrorClass::Unavailable, "replica");
    server.sql(&db, "SET GLOBAL read_only = 0").unwrap();
    store.upsert_failed(&ledger, &one, 1).await.unwrap();
}
