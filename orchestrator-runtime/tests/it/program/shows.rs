//! What an operator sees while it runs: metrics, health, log lines, the ledger.

use std::time::Instant;

use orchestrator_testkit::process::Signal;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::*;

/// The value of a metric, by its name and labels as they are rendered.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// One partition is held by its second record, whose transformer panics; the other flows.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_health_and_log_tell_of_a_held_partition() {
    let held = vec![order(), faulty("panic"), order(), order()];
    let source = topics(&[held, vec![order(); 10]]).await;
    let bootstrap = Kafka::shared().bootstrap_servers();
    let process = program(bootstrap, &source, &[]).start().unwrap();
    let http = http(&process).await;
    wait_for_committed(&source, &[(0, 1), (1, 10)]).await;
    let pipeline = format!(r#"pipeline="{source}.group""#);
    let lag = |partition| {
        format!(r#"orch_consumer_lag{{{pipeline},topic="{source}",partition="{partition}"}}"#)
    };
    // Told of last, each by its own clock.
    let are_shown = async || {
        let metrics = get(http, "/metrics").await.1;
        (value(&metrics, &lag(0)), value(&metrics, &lag(1))) == (Some(3.0), Some(0.0))
    };
    wait::until("the lags are shown", LIMIT, are_shown)
        .await
        .unwrap();

    let (status, metrics) = get(http, "/metrics").await;
    assert_eq!(status, 200);
    for (name, expected) in [
        (format!("orch_records_ok_total{{{pipeline}}}"), 11.0),
        (
            format!(r#"orch_held_partitions{{{pipeline},reason="poison"}}"#),
            1.0,
        ),
        (format!("orch_db_circuit_open{{{pipeline}}}"), 0.0),
        (format!("orch_db_degraded{{{pipeline}}}"), 0.0),
        (lag(0), 3.0),
        (lag(1), 0.0),
        (
            format!(r#"orch_rebalances_total{{{pipeline},kind="assign"}}"#),
            1.0,
        ),
    ] {
        assert_eq!(
            value(&metrics, &name),
            Some(expected),
            "{name} in\n{metrics}"
        );
    }
    for name in [
        format!(r#"orch_transform_fail_total{{{pipeline},class="permanent"}}"#),
        format!("orch_batch_ok_total{{{pipeline}}}"),
        format!("orch_transactions_committed_total{{{pipeline}}}"),
        format!("orch_commit_seconds_count{{{pipeline}}}"),
        format!("orch_transform_seconds_count{{{pipeline}}}"),
        format!("orch_inflight_bytes{{{pipeline}}}"),
        format!("orch_held_bytes{{{pipeline}}}"),
    ] {
        let found = value(&metrics, &name);
        assert!(found.is_some_and(|it| it > 0.0), "{name} in\n{metrics}");
    }

    let (status, health) = get(http, "/health").await;
    let health = json(&health);
    assert_eq!((status, &health["status"]), (200, &"DEGRADED".into()));
    let held = &health["components"]["partitions"]["details"]["held"][0];
    assert_eq!(held["topic"], *source);
    assert_eq!(
        (&held["partition"], &held["offset"]),
        (&0.into(), &1.into())
    );
    assert_eq!(held["reason"], "poison");
    assert_eq!(
        held["remedy"],
        format!("ORCH_DEAD_LETTER_RECORDS={source}:0:1")
    );
    let error = held["error"].as_str().unwrap();
    assert!(error.contains("x-fault: panic"), "{error}");
    assert_eq!(get(http, "/livez").await.0, 200);
    assert_eq!(get(http, "/readyz").await.0, 200);

    // What the panicking transformer said carries its record's key.
    let panic = |line: &str| line.contains("panic: x-fault: panic");
    let line = process.wait_for_line(LIMIT, panic).await.unwrap();
    assert_eq!(json(&line)["dedupKey"], format!("{source}-0-1"));
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));
    assert_eq!(last_line(&process)["labels.held_partitions"], 1);
}

fn cluster_id() -> String {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", Kafka::shared().bootstrap_servers())
        .create()
        .unwrap();
    let wait = Duration::from_secs(10);
    client.fetch_metadata(Some("any"), wait).unwrap();
    client.client().fetch_cluster_id(wait).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_ledger_name_their_cluster_and_health_counts_them() {
    let source = topics(&[vec![order(), faulty("permanent"), order()]]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.db");
    let url = format!("sqlite://{}", file.display());
    let more = [
        ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
        ("ORCH_DB_URL", url.as_str()),
    ];
    let bootstrap = Kafka::shared().bootstrap_servers();
    let process = program(bootstrap, &source, &more).start().unwrap();
    wait_for_committed(&source, &[(0, 3)]).await;
    let (_, health) = get(http(&process).await, "/health").await;
    let ledger = &json(&health)["components"]["ledger"];
    assert_eq!(
        (&ledger["status"], &ledger["details"]["rows_written"]),
        (&"UP".into(), &1.into())
    );
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));

    let options = SqliteConnectOptions::new().filename(&file);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let rows: Vec<(String, String, i64, String)> = sqlx::query_as(
        "SELECT cluster_id, consumer_group, source_offset, status FROM event_failures \
         WHERE passed_at IS NOT NULL",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let row = (
        cluster_id(),
        format!("{source}.group"),
        1,
        "FAILED".to_owned(),
    );
    assert_eq!(rows, [row]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_records_flow_and_the_drain_is_not_held_up() {
    let source = topics(&[vec![order(), faulty("permanent"), order()]]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing").join("ledger.db");
    let url = format!("sqlite://{}", file.display());
    let more = [
        ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
        ("ORCH_DB_URL", url.as_str()),
        ("ORCH_DRAIN_TIMEOUT_MS", "1000"),
    ];
    let bootstrap = Kafka::shared().bootstrap_servers();
    let process = program(bootstrap, &source, &more).start().unwrap();
    wait_for_committed(&source, &[(0, 3)]).await;
    let http = http(&process).await;
    let (_, metrics) = get(http, "/metrics").await;
    let degraded = format!(r#"orch_db_degraded{{pipeline="{source}.group"}}"#);
    assert_eq!(value(&metrics, &degraded), Some(1.0), "{metrics}");
    let (status, health) = get(http, "/health").await;
    let ledger = &json(&health)["components"]["ledger"];
    assert_eq!((status, &ledger["status"]), (200, &"DEGRADED".into()));
    assert_eq!(ledger["details"]["rows_waiting"], 1);
    let told = Instant::now();
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));
    assert!(
        told.elapsed() < Duration::from_secs(4),
        "{:?}",
        told.elapsed()
    );
    let dropped = |line: &str| line.contains("ledger row dropped");
    let line = process.wait_for_line(LIMIT, dropped).await.unwrap();
    assert_eq!(json(&line)["dedupKey"], format!("{source}-0-1"));
    assert_eq!(last_line(&process)["message"], "drained");
}
