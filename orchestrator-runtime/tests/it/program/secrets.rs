//! The password of the ledger's database: whatever becomes of the database, it is shown nowhere.

use std::net::TcpListener;
use std::path::Path;

use orchestrator_testkit::mariadb::MariaDb;
use orchestrator_testkit::postgres::Postgres;
use orchestrator_testkit::process::Signal;

use super::*;

/// In a URL with a `%2F` in it, so that neither form may be shown.
const PASSWORD: &str = "pl4nted%2Fs3cret";
/// What both forms have in common.
const PLANTED: &str = "pl4nted";

fn said(process: &Process) -> String {
    let lines = process.lines().into_iter();
    lines.map(|line| line.text + "\n").collect()
}

#[track_caller]
fn assert_hidden(shown: &str, where_: &str) {
    let line = shown.lines().find(|line| line.contains(PLANTED));
    assert_eq!(line, None, "in {where_}");
}

/// The program with the drivers of all databases.
fn with_ledger(source: &str, url: &str) -> Program {
    let drivers = [
        "orchestrator-runtime/postgres",
        "orchestrator-runtime/mysql",
    ];
    let example = workspace_binary("example-app", &drivers).unwrap();
    let kafka = Kafka::shared().bootstrap_servers();
    Program::new(example)
        .env("ORCH_BOOTSTRAP_SERVERS", kafka)
        .env("ORCH_SOURCE_TOPICS", source)
        .env("ORCH_TARGET_TOPIC", format!("{source}.out"))
        .env("ORCH_GROUP_ID", format!("{source}.group"))
        .env("ORCH_HTTP_ADDR", "127.0.0.1:0")
        .env("ORCH_FAILURE_MODE", "SKIP_AND_LOG")
        .env("ORCH_DB_STRATEGY", "OUTBOX")
        .env("ORCH_DB_CIRCUIT_FAILURE_THRESHOLD", "1")
        .env("ORCH_DB_CIRCUIT_OPEN_MS", "100")
        .env("ORCH_DB_URL", url)
        .env("ORCH_DRAIN_TIMEOUT_MS", "1000")
        .env("EXAMPLE_FAULTS", "true")
        .env("RUST_LOG", "trace")
}

/// Everything that is shown of a run, and that the database could not be used was said.
async fn check(url: &str, spill: &Path) {
    let source = topics(&[vec![order(), faulty("permanent"), order()]]).await;
    let program = with_ledger(&source, url).env("ORCH_SPILL_DIR", spill);
    let process = program.start().unwrap();
    wait_for_committed(&source, &[(0, 3)]).await;
    let http = http(&process).await;
    let mut pages = String::new();
    let is_degraded = async || {
        let (_, health) = get(http, "/health").await;
        json(&health)["components"]["ledger"]["details"]["statement_errors"]
            .as_u64()
            .is_some_and(|errors| errors >= 2)
    };
    wait::until("the database was tried twice", LIMIT, is_degraded)
        .await
        .unwrap();
    for page in [
        "/health",
        "/health?verbose",
        "/metrics",
        "/readyz?verbose",
        "/livez?verbose",
    ] {
        pages += &get(http, page).await.1;
    }
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));
    let log = said(&process);
    assert_hidden(&pages, "what it serves");
    assert_hidden(&log, "what it logs");
    assert!(
        log.contains(r#""log.level":"trace""#),
        "not everything is logged"
    );
    assert!(
        log.contains("the ledger's database is not ready"),
        "{pages}"
    );
    for file in std::fs::read_dir(spill).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert_hidden(&text, "the spill journal");
    }
}

/// Nobody listens at that port.
fn closed() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn check_url(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    check(url, folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_for_postgres_is_shown_nowhere() {
    let port = closed();
    check_url(&format!(
        "postgres://ledger:{PASSWORD}@127.0.0.1:{port}/ledger"
    ))
    .await;
    let parameters = format!("user=ledger&password={PASSWORD}&sslmode=disable");
    check_url(&format!(
        "postgresql://127.0.0.1:{port}/ledger?{parameters}"
    ))
    .await;
    // A server that knows another one.
    let address = Postgres::shared().address();
    check_url(&format!(
        "postgres://postgres:{PASSWORD}@{address}/postgres"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_for_mysql_is_shown_nowhere() {
    let port = closed();
    check_url(&format!(
        "mysql://ledger:{PASSWORD}@127.0.0.1:{port}/ledger"
    ))
    .await;
    let address = MariaDb::shared().address();
    check_url(&format!("mysql://root:{PASSWORD}@{address}/mysql")).await;
}

/// Neither when the URL itself is refused, nor when the configuration is printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_in_no_message_about_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let good = format!("postgres://ledger:{PASSWORD}@db/ledger?sslmode=require");
    std::fs::write(&file, &good).unwrap();
    let source = "orders";
    let print = with_ledger(source, &good).arg("--print-config");
    let from_file = bare()
        .env("ORCH_DB_URL_FILE", file.to_str().unwrap())
        .arg("--print-config");
    let mut refused = Vec::new();
    for bad in [
        format!("oracle://ledger:{PASSWORD}@db/ledger"),
        format!("postgres://ledger:{PASSWORD}@db:port/ledger"),
        format!("postgres://ledger:{PASSWORD}@db/ledger?sslmode={PASSWORD}"),
        format!("postgres://ledger@db/ledger?passwrd={PASSWORD}"),
        format!("mysql://ledger:{PASSWORD}@db:port/ledger"),
        format!("mysql://ledger:{PASSWORD}@db/ledger?ssl-mode={PASSWORD}"),
        format!("mysql://ledger@db/ledger?password={PASSWORD}"),
        format!("sqlite://ledger.db?key={PASSWORD}"),
        PASSWORD.to_owned(),
    ] {
        refused.push(with_ledger(source, &bad));
    }
    for (program, code) in [(print, 0), (from_file, 2)]
        .into_iter()
        .chain(refused.into_iter().map(|program| (program, 2)))
    {
        let process = program.start().unwrap();
        let ended = process.wait(LIMIT).await.unwrap().code();
        let said = said(&process);
        assert_hidden(&said, "what it says");
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains("ORCH_"), "{said}");
    }
}
