//! What the program refuses before it opens a socket, and what it waits for.

use std::net::TcpListener;
use std::time::Instant;

use orchestrator_testkit::process::{Signal, Stream};

use super::*;

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

fn text(process: &Process, stream: Stream) -> String {
    let lines = process.lines();
    let mine = lines.iter().filter(|line| line.stream == stream);
    mine.map(|line| line.text.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_refused_whole_and_before_any_socket() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    broker.set_nonblocking(true).unwrap();
    let addr = broker.local_addr().unwrap().to_string();
    let process = bare()
        .env("ORCH_BOOTSTRAP_SERVERS", &addr)
        // Taken: to listen there would fail, and say so.
        .env("ORCH_HTTP_ADDR", &addr)
        .env("ORCH_FAILURE_MODE", "ATOMICK")
        .env("ORCH_MAX_ATTEMPTS", "0")
        .env("ORCH_WORKRES", "2")
        .env("ORCH_DB_URL", "oracle://me:hunter2@db/ledger")
        .start()
        .unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(2));
    let said = text(&process, Stream::Stderr);
    for key in [
        "ORCH_SOURCE_TOPICS",
        "ORCH_GROUP_ID",
        "ORCH_FAILURE_MODE",
        "ORCH_MAX_ATTEMPTS",
        "ORCH_WORKRES",
        "ORCH_DB_URL",
    ] {
        assert!(said.contains(key), "no {key} in\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    assert!(!said.contains("listen"), "{said}");
    assert_eq!(text(&process, Stream::Stdout), "");
    assert!(broker.accept().is_err(), "a socket was opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_can_never_work_is_a_wrong_configuration() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let more = [
        ("ORCH_DB_URL", "sqlite::memory:"),
        ("ORCH_HTTP_ADDR", addr.as_str()),
    ];
    let process = program(NOBODY, "orders", &more).start().unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(2));
    let said = text(&process, Stream::Stdout);
    assert!(said.contains("ORCH_DB_URL"), "{said}");
    assert!(!said.contains("listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn print_config_shows_everything_but_secrets() {
    let more = [
        ("ORCH_KAFKA_SASL_PASSWORD", "hunter2"),
        ("ORCH_KAFKA_SASL_USERNAME", "me"),
        ("ORCH_DB_URL", "sqlite://hunter2.db"),
        ("ORCH_WORKERS", "3"),
    ];
    let program = program(NOBODY, "orders", &more).arg("--print-config");
    let process = program.start().unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));
    let said = text(&process, Stream::Stdout);
    for line in [
        "ORCH_WORKERS=3 (environment)",
        "ORCH_FAILURE_MODE=ATOMIC (default)",
        "ORCH_DB_URL=*** (environment)",
        "ORCH_KAFKA_SASL_PASSWORD=*** (environment)",
    ] {
        assert!(said.lines().any(|it| it == line), "no {line} in\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

async fn check_waits_for_the_broker(more: &[(&str, &str)]) {
    let process = program(NOBODY, "orders", more).start().unwrap();
    let http = http(&process).await;
    let says = |line: &str| line.contains(NOBODY) && line.contains("ORCH_BOOTSTRAP_SERVERS");
    process.wait_for_line(LIMIT, says).await.unwrap();
    assert_eq!(get(http, "/livez").await.0, 200);
    let (status, said) = get(http, "/readyz").await;
    assert_eq!(status, 503);
    assert!(said.contains("ORCH_BOOTSTRAP_SERVERS"), "{said}");
    let (status, said) = get(http, "/health").await;
    assert_eq!((status, &json(&said)["status"]), (503, &"DOWN".into()));
    assert!(said.contains("ORCH_BOOTSTRAP_SERVERS"), "{said}");
    let told = Instant::now();
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));
    assert!(
        told.elapsed() < Duration::from_secs(3),
        "{:?}",
        told.elapsed()
    );
    assert_eq!(last_line(&process)["message"], "drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_it_lives_says_why_and_drains_promptly() {
    check_waits_for_the_broker(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_a_ledger_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    check_waits_for_the_broker(&[("ORCH_DB_URL", &url)]).await;
}

/// Lets connections to `addr` through to the shared broker.
async fn forward(addr: SocketAddr) {
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let broker = Kafka::shared().bootstrap_servers();
            let mut broker = TcpStream::connect(broker).await.unwrap();
            // Either end may hang up.
            drop(tokio::io::copy_bidirectional(&mut client, &mut broker).await);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_once_the_broker_is_there() {
    let source = topics(&[vec![order(), order()]]).await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    // Free a moment ago.
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let addr = addr.unwrap();
    let more = [("ORCH_DB_URL", url.as_str())];
    let process = program(&addr.to_string(), &source, &more).start().unwrap();
    let says = |line: &str| line.contains("waiting for the broker");
    process.wait_for_line(LIMIT, says).await.unwrap();
    let forwarding = tokio::spawn(forward(addr));
    wait_for_status(http(&process).await, "/readyz", 200).await;
    wait_for_committed(&source, &[(0, 2)]).await;
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));
    forwarding.abort();
}
