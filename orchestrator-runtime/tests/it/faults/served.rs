//! What a process says of itself over HTTP, asked by bare sockets. Only to see which of several processes is at work:
//! whether the work was right is never asked here.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use orchestrator_testkit::process::Process;
use orchestrator_testkit::wait;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::scene::LIMIT;

/// Where a process started with `ORCH_HTTP_ADDR=127.0.0.1:0` serves.
pub(crate) async fn address(process: &Process) -> SocketAddr {
    let line = process.wait_for_line(LIMIT, |line| line.contains("serving /livez"));
    let line = line.await.unwrap();
    let start = line.find("127.0.0.1:").unwrap();
    let is_address = |letter: char| letter.is_ascii_digit() || ".:".contains(letter);
    let address: String = line[start..]
        .chars()
        .take_while(|c| is_address(*c))
        .collect();
    address.parse().unwrap()
}

/// The body of an answer.
pub(crate) async fn get(process: &Process, path: &str) -> String {
    let mut stream = TcpStream::connect(address(process).await).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

/// How many records a process has passed.
pub(crate) async fn passed(process: &Process) -> u64 {
    counted(process, "orch_records_ok_total").await
}

/// What a counter of a process says, over all its labels.
pub(crate) async fn counted(process: &Process, counter: &str) -> u64 {
    let metrics = get(process, "/metrics").await;
    let labelled = format!("{counter}{{");
    let counters = metrics.lines().filter(|line| line.starts_with(&labelled));
    let values = counters.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    values.sum()
}

/// The partitions that a process says it holds: at which offset, and why.
pub(crate) async fn held(process: &Process) -> BTreeMap<i64, (i64, String)> {
    let health: Value = serde_json::from_str(&get(process, "/health").await).unwrap();
    let held = &health["components"]["partitions"]["details"]["held"];
    let held = held.as_array().unwrap().iter().map(|held| {
        let number = |name: &str| held[name].as_i64().unwrap();
        let reason = held["reason"].as_str().unwrap().to_owned();
        (number("partition"), (number("offset"), reason))
    });
    held.collect()
}

/// Waits until each of these has passed so many more records, from a moment on when all of them run.
pub(crate) async fn wait_until_all_work(processes: &[&Process], records: u64) {
    for process in processes {
        address(process).await;
    }
    for process in processes {
        let wanted = passed(process).await + records;
        let what = format!("{process:?} passes {records} records");
        wait::until(&what, LIMIT, async || passed(process).await >= wanted)
            .await
            .unwrap();
    }
}
