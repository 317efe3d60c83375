//! The surface as a client sees it: a loopback port and requests written by hand.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::health::WorkerState;
use crate::metrics::{PipelineMetrics, test_recorder};

struct Server {
    addr: SocketAddr,
    health: Health,
    stop: CancellationToken,
    task: JoinHandle<Result<(), HttpError>>,
}

async fn start(handle: Option<PrometheusHandle>) -> Server {
    let metrics = Arc::new(PipelineMetrics::new("g"));
    let health = Health::new(metrics, 1, Duration::from_secs(60), now());
    let server = HttpServer::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr();
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.serve(router(health.clone(), handle), stop.clone()));
    Server {
        addr,
        health,
        stop,
        task,
    }
}

impl Server {
    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("{request}\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Status and body.
    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask(&format!("GET {path} HTTP/1.1")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

#[tokio::test]
async fn probes_answer_by_status_and_say_why() {
    let server = start(None).await;
    let worker = server.health.worker(0);
    assert_eq!(server.get("/livez").await, (200, "ok\n".into()));
    let (status, body) = server.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.starts_with("[-]worker 0: starting"), "{body}");
    worker.state(WorkerState::Running);
    assert_eq!(server.get("/readyz").await, (200, "ok\n".into()));
    let verbose = "[+]worker 0: running\nreadyz check passed\n";
    assert_eq!(
        server.get("/readyz?verbose").await,
        (200, verbose.to_owned())
    );
    worker.state(WorkerState::Died {
        why: "panicked".into(),
    });
    let failed = "[-]worker 0: died: panicked\nlivez check failed\n";
    assert_eq!(server.get("/livez").await, (503, failed.to_owned()));
}

#[tokio::test]
async fn health_is_json_and_down_is_503() {
    let server = start(None).await;
    server.health.worker(0).state(WorkerState::Running);
    server.health.broker_reachable(now());
    let (status, body) = server.get("/health").await;
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &report["status"]), (200, &"UP".into()));
    server.health.broker_unreachable("refused", now());
    let (status, body) = server.get("/health?verbose").await;
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &report["status"]), (503, &"DOWN".into()));
    assert_eq!(report["components"]["kafka"]["details"]["error"], "refused");
}

#[tokio::test]
async fn metrics_need_a_handle() {
    let (status, body) = start(None).await.get("/metrics").await;
    assert_eq!(status, 404);
    assert!(body.contains("PrometheusHandle"), "{body}");
    let recorder = test_recorder();
    let server = start(Some(recorder.handle())).await;
    metrics::with_local_recorder(&recorder, || {
        PipelineMetrics::new("g").batch_ok.increment(5);
    });
    let answer = server.ask("GET /metrics HTTP/1.1").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"));
    assert!(answer.contains("orch_batch_ok_total{pipeline=\"g\"} 5"));
}

#[tokio::test]
async fn only_a_bare_get_is_taken() {
    let server = start(None).await;
    for (request, status) in [
        ("HEAD /livez HTTP/1.1", "200"),
        ("POST /livez HTTP/1.1", "405"),
        ("DELETE /metrics HTTP/1.1", "405"),
        ("GET /nowhere HTTP/1.1", "404"),
        ("GET /livez HTTP/1.1\r\ncontent-length: 9", "413"),
        ("GET /livez HTTP/1.1\r\ntransfer-encoding: chunked", "413"),
    ] {
        let answer = server.ask(request).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}");
    }
    let endless = format!("GET /livez HTTP/1.1\r\nx: {}", "x".repeat(1 << 20));
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    // The server may hang up before it has read all of it.
    stream.write_all(endless.as_bytes()).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn it_stops_when_told_although_a_connection_is_open() {
    let server = start(None).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    server.stop.cancel();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_address_is_named_with_its_key() {
    let first = HttpServer::bind("127.0.0.1:0").await.unwrap();
    let error = HttpServer::bind(first.local_addr()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("ORCH_HTTP_ADDR"), "{text}");
    assert!(text.contains(&first.local_addr().to_string()), "{text}");
}
