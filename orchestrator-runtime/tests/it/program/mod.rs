//! The example app as a process: how it starts, what it shows, how it ends.

mod ends;
mod secrets;
mod shows;
mod starts;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::process::{Process, Program, workspace_binary};
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::{WriteRecord, write};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(60);

const SOUND: &str = r#"{"order_id":"o","customer_id":"c","currency":"eur","placed_at_ms":1,
    "items":[{"sku":"s","qty":2,"unit_price_cents":300}],"note":""}"#;

/// The program without any setting.
fn bare() -> Program {
    Program::new(workspace_binary("example-app", &[]).unwrap())
}

/// The program with all it needs, reading from `bootstrap`.
fn program(bootstrap: &str, source: &str, more: &[(&str, &str)]) -> Program {
    bare()
        .env("ORCH_BOOTSTRAP_SERVERS", bootstrap)
        .env("ORCH_SOURCE_TOPICS", source)
        .env("ORCH_TARGET_TOPIC", format!("{source}.out"))
        .env("ORCH_GROUP_ID", format!("{source}.group"))
        .env("ORCH_HTTP_ADDR", "127.0.0.1:0")
        .env("EXAMPLE_FAULTS", "true")
        .envs(more.iter().copied())
}

/// Fresh topics on the shared broker, the source with one partition per list of records.
async fn topics(partitions: &[Vec<WriteRecord>]) -> String {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let admin = Admin::new(bootstrap).unwrap();
    let source = fresh("orders");
    let count = i32::try_from(partitions.len()).unwrap();
    for suffix in ["", ".out", ".dlq"] {
        let topic = format!("{source}{suffix}");
        admin.create_topic(&topic, count, &[]).await.unwrap();
    }
    for (partition, records) in (0..).zip(partitions) {
        let records = records.iter().cloned().map(|it| it.partition(partition));
        let records: Vec<_> = records.collect();
        write(bootstrap, &source, records).await.unwrap();
    }
    source
}

async fn wait_for_committed(source: &str, offsets: &[(i32, i64)]) {
    let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
    let expected: BTreeMap<_, _> = offsets.iter().copied().collect();
    let group = format!("{source}.group");
    let committed = admin.wait_for_committed(&group, source, &expected, LIMIT);
    committed.await.unwrap();
}

fn order() -> WriteRecord {
    WriteRecord::new(SOUND).key("c")
}

fn faulty(fault: &str) -> WriteRecord {
    order().header("x-fault", fault)
}

/// Where it serves health and metrics.
async fn http(process: &Process) -> SocketAddr {
    let serving = |line: &str| line.contains("serving /livez");
    let line = process.wait_for_line(LIMIT, serving).await.unwrap();
    json(&line)["labels.addr"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The last line of all.
fn last_line(process: &Process) -> Value {
    json(&process.lines().last().unwrap().text)
}

/// Status and body of a page.
async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

async fn wait_for_status(addr: SocketAddr, path: &str, status: u16) {
    let answers = async || get(addr, path).await.0 == status;
    let what = format!("{path} answers {status}");
    wait::until(&what, LIMIT, answers).await.unwrap();
}
