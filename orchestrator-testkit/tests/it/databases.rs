//! Database servers that are asked, stopped, paused and ended: the same tests for both kinds.

use std::net::TcpStream;
use std::ops::Deref;
use std::sync::mpsc::channel;
use std::time::Duration;

use orchestrator_testkit::database::{DatabaseError, DatabaseServer};
use orchestrator_testkit::mariadb::{MariaDb, MariaDbOptions};
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
use sqlx::{Connection, MySqlConnection, PgConnection};

use crate::pids::{await_that, family_of, runs};

fn own_postgres() -> Postgres {
    let options = PostgresOptions::new().own().setting("fsync", "off");
    Postgres::start(options.max_connections(15)).unwrap()
}

fn own_mariadb() -> MariaDb {
    let options = MariaDbOptions::new().own().flush_log_at_trx_commit(2);
    MariaDb::start(options.max_connections(15)).unwrap()
}

/// The name of the database that a URL ends with.
fn name_of(url: &str) -> &str {
    let path = url.split('?').next().unwrap();
    path.rsplit('/').next().unwrap()
}

fn numbers(server: &DatabaseServer) -> String {
    let url = server.create_database("Kept-numbers").unwrap();
    let database = name_of(&url).to_owned();
    assert!(database.starts_with("kept_numbers_"), "{database}");
    let filled = "CREATE TABLE numbers (n INT PRIMARY KEY, name VARCHAR(20)); \
                  INSERT INTO numbers VALUES (1, 'one'), (2, NULL), (3, 'drei \u{1f980}')";
    server.sql(&database, filled).unwrap();
    database
}

#[track_caller]
fn check_numbers(server: &DatabaseServer, database: &str) {
    let rows = server
        .sql(database, "SELECT n, name FROM numbers ORDER BY n")
        .unwrap();
    assert_eq!(rows, "1|one\n2|\n3|drei \u{1f980}");
}

fn secret_of(server: &DatabaseServer) -> String {
    let url = server.url("any");
    url.split([':', '@']).nth(2).unwrap().to_owned()
}

#[track_caller]
fn check_answers(server: &DatabaseServer) {
    let database = numbers(server);
    check_numbers(server, &database);
    assert_ne!(numbers(server), database, "names are fresh");

    let error = server.sql(&database, "SELECT nothing").unwrap_err();
    assert!(matches!(error, DatabaseError::Sql { .. }), "{error}");
    assert!(error.to_string().contains("nothing"), "{error}");
    let secret = secret_of(server);
    assert!(!format!("{server:?} {error:?}").contains(&secret));
}

#[test]
fn the_shared_postgres_answers() {
    check_answers(Postgres::shared());
}

#[test]
fn the_shared_mariadb_answers() {
    check_answers(MariaDb::shared());
}

#[tokio::test]
async fn it_can_be_asked_from_within_an_async_test() {
    check_numbers(Postgres::shared(), &numbers(Postgres::shared()));
}

#[tokio::test]
async fn options_reach_the_server_and_a_password_is_asked_for() {
    let (postgres, mariadb) = (own_postgres(), own_mariadb());
    let settings = "SELECT current_setting('max_connections'), current_setting('fsync'), \
                    current_setting('server_encoding')";
    assert_eq!(postgres.sql("postgres", settings).unwrap(), "15|off|UTF8");
    let settings = "SELECT @@max_connections, @@innodb_flush_log_at_trx_commit, \
                    @@character_set_server";
    assert_eq!(mariadb.sql("mysql", settings).unwrap(), "15|2|utf8mb4");

    let refused = |error: sqlx::Error| matches!(error, sqlx::Error::Database(_));
    for (user, password) in [("orchestrator", "wrong"), ("root", ""), ("root", "root")] {
        let url = postgres.url_as(user, password, "postgres");
        assert!(refused(PgConnection::connect(&url).await.unwrap_err()));
        let url = mariadb.url_as(user, password, "mysql");
        assert!(refused(MySqlConnection::connect(&url).await.unwrap_err()));
    }
}

#[track_caller]
fn check_faults(server: impl Deref<Target = DatabaseServer> + Send + Sync, sleep: &str) {
    let database = numbers(&server);
    let folder = server.folder().unwrap().to_owned();
    let family = family_of(&folder.display().to_string());

    server.stop_immediate().unwrap();
    assert!(!server.is_running().unwrap());
    assert!(TcpStream::connect(server.address()).is_err());
    assert!(server.pause().is_err(), "what has ended cannot be paused");
    server.restart().unwrap();
    check_numbers(&server, &database);

    // Once more while it runs.
    server.restart().unwrap();
    check_numbers(&server, &database);

    std::thread::scope(|scope| {
        let (sender, answers) = channel();
        let statement = sleep.replace("SECONDS", "1");
        let (server, database) = (&server, &database);
        scope.spawn(move || {
            let answer = server.sql(database, &statement);
            sender.send(answer.is_ok()).unwrap();
        });
        await_that("the statement runs", || sleepers(server, database) == 1);
        server.pause().unwrap();
        assert!(server.is_running().unwrap());
        let paused = answers.recv_timeout(Duration::from_millis(1_500));
        assert!(paused.is_err(), "a paused server answered");
        server.resume().unwrap();
        assert!(answers.recv_timeout(Duration::from_secs(20)).unwrap());
    });
    check_numbers(&server, &database);

    std::thread::scope(|scope| {
        let statement = sleep.replace("SECONDS", "60");
        let (server, database) = (&server, &database);
        let ended = scope.spawn(move || server.sql(database, &statement).is_err());
        await_that("the statement runs", || sleepers(server, database) == 1);
        assert_eq!(server.terminate_backends(database, "1 = 2").unwrap(), 0);
        assert_eq!(server.terminate_backends(database, "1 = 1").unwrap(), 1);
        assert!(ended.join().unwrap());
    });

    // A paused server ends like any other.
    server.pause().unwrap();
    let family = [family, family_of(&folder.display().to_string())].concat();
    drop(server);
    assert!(!folder.exists());
    assert!(!family.iter().any(|pid| runs(pid)), "{family:?}");
}

/// How many others are at work in this database.
fn sleepers(server: &DatabaseServer, database: &str) -> usize {
    let scheme = server.url(database);
    let count = if scheme.starts_with("postgres") {
        format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
        )
    } else {
        format!(
            "SELECT count(*) FROM information_schema.processlist WHERE db = '{database}' AND state = 'User sleep'"
        )
    };
    let admin = if scheme.starts_with("postgres") {
        "postgres"
    } else {
        "information_schema"
    };
    server.sql(admin, &count).unwrap().parse().unwrap()
}

#[test]
fn a_postgres_keeps_its_data_through_every_fault_and_goes_with_its_value() {
    check_faults(own_postgres(), "SELECT pg_sleep(SECONDS)");
}

#[test]
fn a_mariadb_keeps_its_data_through_every_fault_and_goes_with_its_value() {
    check_faults(own_mariadb(), "SELECT SLEEP(SECONDS)");
}

#[track_caller]
fn check_apart(one: &DatabaseServer, other: &DatabaseServer) {
    assert_ne!(one.address(), other.address());
    assert_ne!(one.folder(), other.folder());
    assert_ne!(secret_of(one), secret_of(other));
    let database = numbers(one);
    assert!(other.sql(&database, "SELECT 1").is_err());
    other.stop_immediate().unwrap();
    check_numbers(one, &database);
}

#[test]
fn two_servers_of_a_kind_do_not_meet() {
    check_apart(&own_postgres(), &own_postgres());
    check_apart(&own_mariadb(), &own_mariadb());
}

#[test]
fn a_server_that_cannot_start_shows_its_log() {
    let options = PostgresOptions::new().own().setting("no_such_setting", "1");
    let error = Postgres::start(options).unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");

    let options = MariaDbOptions::new().own().option("no-such-option", "1");
    let error = MariaDb::start(options).unwrap_err().to_string();
    assert!(error.contains("no-such-option"), "{error}");
}

#[test]
fn a_named_server_is_taken_and_not_ill_treated() {
    // In a process of its own: the environment is the whole process's.
    let (postgres, mariadb) = (Postgres::shared(), MariaDb::shared());
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "databases::named_servers", "--nocapture"])
        .env("ORCH_TEST_POSTGRES_URL", postgres.url("postgres"))
        .env("ORCH_TEST_MYSQL_URL", mariadb.url("mysql"))
        .env("ORCH_TESTKIT_TEST_NAMED", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for server in [&**postgres, &**mariadb] {
        assert!(
            text.contains(&format!("taken={}", server.address())),
            "{text}"
        );
        check_numbers(server, &numbers(server));
    }
}

/// Not a test: what the one above runs in a process of its own.
#[test]
fn named_servers() {
    if std::env::var_os("ORCH_TESTKIT_TEST_NAMED").is_none() {
        return;
    }
    for server in [&**Postgres::shared(), &**MariaDb::shared()] {
        println!("\ntaken={}", server.address());
        assert!(server.folder().is_none());
        check_numbers(server, &numbers(server));
        for refused in [server.stop_immediate(), server.pause(), server.restart()] {
            let error = refused.unwrap_err();
            assert!(matches!(error, DatabaseError::NotOurs { .. }), "{error}");
        }
    }
}
