//! The example's tracker against webhooks that work, hang, refuse or are not there.

#[path = "../../../examples/webhook_tracker/http.rs"]
#[allow(unreachable_pub)]
mod http;
#[path = "../../../examples/webhook_tracker/tracker.rs"]
#[allow(unreachable_pub)]
mod tracker;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use orchestrator_testkit::wait;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use http::Webhook;
use tracker::WebhookTracker;

const RECORDS: i64 = 300;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    Refusing,
    Hanging,
}

/// What the webhook's other end knows.
#[derive(Clone)]
struct Seen {
    mood: Arc<Mutex<Mood>>,
    failures: Arc<Mutex<Vec<Value>>>,
}

struct Receiver {
    seen: Seen,
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

async fn take(State(seen): State<Seen>, Json(body): Json<Value>) -> StatusCode {
    let mood = *seen.mood.lock().unwrap();
    match mood {
        Mood::Hanging => std::future::pending().await,
        Mood::Refusing => StatusCode::INTERNAL_SERVER_ERROR,
        Mood::Well => {
            let failures = body["failures"].as_array().unwrap().iter().cloned();
            seen.failures.lock().unwrap().extend(failures);
            StatusCode::NO_CONTENT
        }
    }
}

impl Receiver {
    async fn start(mood: Mood) -> Self {
        let seen = Seen {
            mood: Arc::new(Mutex::new(mood)),
            failures: Arc::default(),
        };
        let router = Router::new()
            .route("/failures", post(take))
            .with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self {
            seen,
            address,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    fn set(&self, mood: Mood) {
        *self.seen.mood.lock().unwrap() = mood;
    }

    fn offsets(&self) -> Vec<i64> {
        let failures = self.seen.failures.lock().unwrap();
        let offset = |failure: &Value| failure["offset"].as_i64().unwrap();
        failures.iter().map(offset).collect()
    }
}

fn webhook(address: SocketAddr) -> Webhook {
    let url = format!("http://{address}/failures");
    Webhook::new(&url, Duration::from_millis(200)).unwrap()
}

fn bad(records: i64) -> Vec<i64> {
    (0..records).filter(|at| is_bad(*at)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_of_exactly_the_failures_of_a_run() {
    let receiver = Receiver::start(Mood::Well).await;
    let source = topics(RECORDS).await;
    let built = builder(&source, &[])
        .failure_tracker(WebhookTracker::start(webhook(receiver.address)))
        .build()
        .unwrap();
    let running = run(&source, built);
    running.wait_for_committed(RECORDS).await;
    let drained = running.drain().await;
    assert_eq!(drained.counts.failed, 30);
    assert_eq!(receiver.offsets(), bad(RECORDS), "each once, in order");
    let first = receiver.seen.failures.lock().unwrap()[0].clone();
    for (field, expected) in [
        ("dedup_key", Value::from(format!("{source}-0-9"))),
        ("topic", source.as_str().into()),
        ("partition", 0.into()),
        ("class", "permanent".into()),
        ("stage", "transform".into()),
        ("error", "bad".into()),
        ("attempts", 1.into()),
        ("dead_lettered", false.into()),
    ] {
        assert_eq!(first[field], expected, "{field}");
    }
}

/// All is committed, and drained in time, whatever the webhook does.
async fn check_stops_nothing(address: SocketAddr) {
    let source = topics(RECORDS).await;
    let built = builder(&source, &[("ORCH_DRAIN_TIMEOUT_MS", "1000")])
        .failure_tracker(WebhookTracker::start(webhook(address)))
        .build()
        .unwrap();
    let running = run(&source, built);
    running.wait_for_committed(RECORDS).await;
    let started = Instant::now();
    let drained = running.drain().await;
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert_eq!((drained.counts.ok, drained.counts.failed), (270, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_hangs_refuses_or_is_down_stops_nothing() {
    let hanging = Receiver::start(Mood::Hanging).await;
    let refusing = Receiver::start(Mood::Refusing).await;
    // Free a moment ago, and nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let down = nobody.local_addr().unwrap();
    drop(nobody);
    tokio::join!(
        check_stops_nothing(hanging.address),
        check_stops_nothing(refusing.address),
        check_stops_nothing(down),
    );
    assert_eq!(hanging.offsets().len() + refusing.offsets().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_wait_for_a_webhook_that_comes_back() {
    let receiver = Receiver::start(Mood::Refusing).await;
    let source = topics(RECORDS).await;
    let built = builder(&source, &[])
        .failure_tracker(WebhookTracker::start(webhook(receiver.address)))
        .build()
        .unwrap();
    let running = run(&source, built);
    running.wait_for_committed(RECORDS).await;
    receiver.set(Mood::Well);
    let all = async || receiver.offsets() == bad(RECORDS);
    wait::until("all failures have come", LIMIT, all)
        .await
        .unwrap();
    running.drain().await;
    assert_eq!(receiver.offsets(), bad(RECORDS));
}

/// There is room for two failures, and the webhook takes none: what comes then holds its partition until it does.
#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_may_pass_unrecorded_a_full_tracker_holds_and_goes_on_by_itself() {
    let receiver = Receiver::start(Mood::Refusing).await;
    let source = topics(100).await;
    let built = builder(&source, &[("ORCH_DB_DEGRADE_DONT_BLOCK", "false")])
        .failure_tracker(WebhookTracker::with_room_for(2, webhook(receiver.address)))
        .build()
        .unwrap();
    let running = run(&source, built);
    // As many as there are in a unit of work are taken.
    running.wait_for_committed(100).await;
    add_records(&source, 100).await;
    let is_held = async || {
        let snapshot = running.handle.health().snapshot();
        let mut partitions = snapshot
            .workers
            .iter()
            .flat_map(|it| it.partitions.values());
        partitions.any(|partition| {
            let held = partition.held.as_ref();
            held.is_some_and(|held| {
                held.reason == "database" && held.error.contains("wait for the webhook")
            })
        })
    };
    wait::until("the partition is held", LIMIT, is_held)
        .await
        .unwrap();
    let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
    let committed = admin.committed(&source, &source).await.unwrap();
    let next = committed.get(&0).copied().unwrap_or_default();
    assert!((100..110).contains(&next), "{next}");
    receiver.set(Mood::Well);
    running.wait_for_committed(200).await;
    running.drain().await;
    assert_eq!(receiver.offsets(), bad(200));
}
