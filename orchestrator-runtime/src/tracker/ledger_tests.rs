//! Tests of the whole ledger on real SQLite files: locked by somebody else, absent at start, shared, and always
//! silent about its URL.
#![allow(clippy::unwrap_used)]

use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use orchestrator_core::{FailureRecord, OffsetRange, Passed};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Executor};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::fake_store::{failed, identity, orders};
use super::*;

fn settings(folder: &TempDir, degrade_dont_block: bool) -> LedgerSettings {
    LedgerSettings {
        strategy: Strategy::Lightweight,
        url: Some(format!("sqlite://{}", file(folder).display())),
        batch_budget: Duration::from_millis(400),
        circuit_open: Duration::from_millis(500),
        degrade_dont_block,
        ..LedgerSettings::default()
    }
}

fn file(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("ledger.db")
}

async fn other(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn count(file: &Path, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM event_failures WHERE {condition}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut other(file).await)
        .await
        .unwrap()
}

fn unit(offset: i64) -> (Vec<FailureRecord>, Passed) {
    let range = OffsetRange {
        partition: orders(),
        from: offset,
        next: offset + 1,
    };
    let passed = Passed {
        ranges: vec![range],
        failures: vec![orders().at(offset)],
    };
    (vec![failed(offset, 100)], passed)
}

/// Waits for a condition, which the background brings about.
async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let waited = timeout(Duration::from_secs(30), async {
        while !done().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

async fn build(settings: &LedgerSettings) -> Ledger {
    let plan = LedgerPlan::new(settings.clone()).unwrap();
    plan.start(identity()).await
}

#[tokio::test]
async fn kafka_moves_on_while_somebody_else_holds_the_lock_and_the_rows_follow() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder, true);
    let Ledger { tracker, health } = build(&settings).await;
    let health = health.unwrap();
    tracker.assigned(&[orders().at(0)]).await.unwrap();
    assert_eq!(health.state(), DbState::Up);

    let mut lock = other(&file(&folder)).await;
    lock.execute("BEGIN IMMEDIATE").await.unwrap();
    let mut offset = 0;
    let mut blocked = 0;
    while health.circuit() != orchestrator_core::breaker::CircuitState::Open || blocked < 50 {
        let (failures, passed) = unit(offset);
        let started = Instant::now();
        tracker.failed(&failures).await.unwrap();
        let took = started.elapsed();
        // A second for a machine that is busy with other things.
        assert!(
            took < settings.batch_budget + Duration::from_secs(1),
            "{took:?}"
        );
        tracker.committed(&passed).await.unwrap();
        (offset, blocked) = (offset + 1, blocked + 1);
        sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(health.state(), DbState::Degraded { .. }));
    assert_eq!(count(&file(&folder), "true").await, 0);

    lock.execute("ROLLBACK").await.unwrap();
    until("up", async || health.state() == DbState::Up).await;
    assert_eq!(
        count(
            &file(&folder),
            "status = 'FAILED' AND passed_at IS NOT NULL"
        )
        .await,
        offset
    );
    assert_eq!(health.counters().rows_dropped, 0);
    let (failures, passed) = unit(offset);
    tracker.failed(&failures).await.unwrap();
    tracker.committed(&passed).await.unwrap();
    assert_eq!(
        count(&file(&folder), "passed_at IS NOT NULL").await,
        offset + 1
    );
}

#[tokio::test]
async fn where_nothing_may_pass_unrecorded_a_lock_holds_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = build(&settings(&folder, false)).await.tracker;
    let mut lock = other(&file(&folder)).await;
    lock.execute("BEGIN IMMEDIATE").await.unwrap();
    let (failures, passed) = unit(1);
    for _ in 0..10 {
        let error = tracker.failed(&failures).await.unwrap_err();
        assert!(
            error.message.contains("ORCH_DB_DEGRADE_DONT_BLOCK=false"),
            "{error}"
        );
    }
    lock.execute("ROLLBACK").await.unwrap();
    until("taken", async || tracker.failed(&failures).await.is_ok()).await;
    tracker.committed(&passed).await.unwrap();
    assert_eq!(count(&file(&folder), "passed_at IS NOT NULL").await, 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_at_start_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder, true);
    let inner = folder.path().join("not-there-yet");
    let path = inner.join("ledger.db");
    settings.url = Some(format!("sqlite://{}", path.display()));
    let Ledger { tracker, health } = build(&settings).await;
    let (failures, passed) = unit(1);
    tracker.failed(&failures).await.unwrap();
    tracker.committed(&passed).await.unwrap();
    std::fs::create_dir(&inner).unwrap();
    let health = health.unwrap();
    until("up", async || health.state() == DbState::Up).await;
    assert_eq!(count(&path, "passed_at IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_share_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledgers = Vec::new();
    for _ in 0..3 {
        ledgers.push(build(&settings(&folder, true)).await);
    }
    let work = |(process, ledger): (usize, &Ledger)| {
        let tracker = ledger.tracker.clone();
        tokio::spawn(async move {
            for n in 0..40 {
                let (failures, passed) = unit(n * 3 + process as i64);
                tracker.failed(&failures).await.unwrap();
                tracker.committed(&passed).await.unwrap();
            }
            tracker.flush().await;
        })
    };
    let tasks: Vec<_> = ledgers.iter().enumerate().map(work).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(count(&file(&folder), "passed_at IS NOT NULL").await, 120);
}

#[tokio::test]
async fn settings_that_can_never_work_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = settings(&folder, true);
    for (settings, key) in [
        (
            LedgerSettings {
                url: None,
                ..good.clone()
            },
            "ORCH_DB_URL",
        ),
        (
            LedgerSettings {
                url: Some("oracle://u:s3cret@h/d".into()),
                ..good.clone()
            },
            "ORCH_DB_URL",
        ),
        (
            LedgerSettings {
                url: Some("sqlite://x?s3cret=1".into()),
                ..good.clone()
            },
            "ORCH_DB_URL",
        ),
        (
            LedgerSettings {
                table: "a b".into(),
                ..good.clone()
            },
            "ORCH_ERROR_TABLE",
        ),
    ] {
        let error = LedgerPlan::new(settings).unwrap_err();
        assert!(error.message.contains(key), "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
    }
    let none = LedgerSettings::default();
    assert!(build(&none).await.health.is_none());
}

/// All that is logged while it lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_url_is_never_shown() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder, true);
    settings.circuit_failure_threshold = 1;
    settings.url = Some("sqlite:///no/such/folder/s3cret.db".into());
    let ledger = build(&settings).await;
    let (failures, passed) = unit(1);
    ledger.tracker.failed(&failures).await.unwrap();
    ledger.tracker.committed(&passed).await.unwrap();
    let health = ledger.health.clone().unwrap();
    until("tried again", async || {
        health.counters().statement_errors >= 2
    })
    .await;
    let shown = format!("{settings:?} {ledger:?} {:?}", health.state());
    drop(ledger);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("ledger row dropped") && log.contains("orders-0-1"),
        "{log}"
    );
    for text in [shown, log] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}
