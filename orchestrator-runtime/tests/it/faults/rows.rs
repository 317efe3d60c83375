//! A failure ledger in a SQLite file: given to a scene, and its rows of failures held against what was written.

use std::path::Path;

use orchestrator_testkit::wait;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::exact::{Fate, Input};
use super::scene::{LIMIT, Scene};

/// The scene with LIGHTWEIGHT on this file.
pub(super) fn noted_in(scene: Scene, ledger: &Path) -> Scene {
    scene
        .with("ORCH_DB_STRATEGY", "LIGHTWEIGHT")
        .with("ORCH_DB_URL", url(ledger))
}

pub(super) fn url(ledger: &Path) -> String {
    format!("sqlite://{}", ledger.display())
}

pub(super) async fn open(ledger: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(ledger);
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// How many rows say of a record that it failed.
pub(super) async fn failed(ledger: &mut SqliteConnection) -> usize {
    count(ledger, "status = 'FAILED'").await
}

/// How many of them say, too, that it was passed.
pub(super) async fn failed_and_passed(ledger: &mut SqliteConnection) -> usize {
    count(ledger, "status = 'FAILED' AND passed_at IS NOT NULL").await
}

async fn count(ledger: &mut SqliteConnection, of: &str) -> usize {
    let rows = format!("SELECT count(*) FROM event_failures WHERE {of}");
    let rows = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(rows));
    rows.fetch_one(ledger).await.unwrap().try_into().unwrap()
}

/// How many have to.
pub(super) fn to_fail(inputs: &[Input]) -> usize {
    let failed = inputs.iter().filter(|it| it.fate == Fate::DeadLetter);
    failed.count()
}

/// Waits until each dead letter has its row, and no other record has one that failed. Whether it was passed may be
/// unknown: a process that dies between a commit and its note of it tells nobody.
pub(super) async fn wait_until_each_failure_has_one(ledger: &Path, inputs: &[Input]) {
    let expected = to_fail(inputs);
    let mut found = None;
    let told = wait::until("each failure has its row", LIMIT, async || {
        let rows = failed(&mut open(ledger).await).await;
        found = Some(rows);
        rows == expected
    });
    if let Err(error) = told.await {
        panic!("{error}: {found:?} of {expected}");
    }
}
