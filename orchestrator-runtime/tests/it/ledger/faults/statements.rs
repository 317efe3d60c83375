//! The server is there, but statements do not get through: the table is locked, each is slow, or its connection is
//! lost in the middle.

use std::time::{Duration, Instant};

use orchestrator_testkit::postgres::PostgresOptions;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::task::block_in_place;

use super::{Bite, FOUR, SIX, lasts, server, survives};
use crate::faults::ill_statements::{FAST, commits_hang, slow};

/// So many connections are lost.
const TERMINATED: usize = 50;
/// At least so many of them in the middle of COMMIT.
const IN_COMMIT_MIN: usize = 10;

/// Somebody alters the table, and takes his time.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_for_10_s() {
    let server = server(PostgresOptions::new());
    let bite = Bite {
        what: "the ledger's table locked",
        class: Some("timeout"),
        opens: true,
        begins: 1,
    };
    survives(&server, &SIX, bite, async |victims| {
        let mut locks = Vec::new();
        for database in &victims.databases {
            let mut client = PgConnection::connect(&server.url(database)).await.unwrap();
            client.execute("BEGIN").await.unwrap();
            let lock = "LOCK TABLE event_failures IN ACCESS EXCLUSIVE MODE";
            client.execute(lock).await.unwrap();
            locks.push(client);
        }
        victims.suffer(Duration::from_secs(10)).await;
        for mut client in locks {
            client.execute("ROLLBACK").await.unwrap();
        }
    })
    .await;
}

/// Each statement that writes takes longer than it may.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_too_slow() {
    let server = server(PostgresOptions::new());
    let bite = Bite {
        what: "the database too slow",
        class: Some("timeout"),
        opens: true,
        begins: 1,
    };
    survives(&server, &FOUR, bite, async |victims| {
        for database in &victims.databases {
            block_in_place(|| server.sql(database, &slow(0.8)).unwrap());
        }
        victims.suffer(Duration::from_secs(6)).await;
        for database in &victims.databases {
            block_in_place(|| server.sql(database, FAST).unwrap());
        }
    })
    .await;
}

/// Connections are lost one by one, whatever they are at; half of the time COMMIT takes a while, so that many are lost
/// when it has taken effect and not been answered.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_lost_50_times() {
    let server = server(PostgresOptions::new());
    let bite = Bite {
        what: "connections to the database lost, some in COMMIT",
        // Chance picks the connections: not every pipeline need lose one.
        class: None,
        opens: false,
        begins: 1,
    };
    survives(&server, &SIX, bite, async |_| {
        let mut admin = PgConnection::connect(&server.url("postgres"))
            .await
            .unwrap();
        let mut in_commit = 0;
        for hang in [false, true] {
            commits_hang(&mut admin, hang).await;
            in_commit += lose(&mut admin, TERMINATED / 2).await;
        }
        commits_hang(&mut admin, false).await;
        assert!(
            in_commit >= IN_COMMIT_MIN,
            "only {in_commit} were lost in COMMIT"
        );
    })
    .await;
}

/// Ends so many sessions of pipelines, at random; gives back how many were in COMMIT.
async fn lose(admin: &mut PgConnection, count: usize) -> usize {
    // Every other time one that is at work, in COMMIT if there is one.
    const AT_WORK: &str = "SELECT pg_terminate_backend(pid), wait_event IS NOT DISTINCT FROM 'SyncRep' \
        FROM pg_stat_activity WHERE application_name = 'orchestrator' AND state <> 'idle' \
        ORDER BY 2 DESC, random() LIMIT 1";
    const ANY: &str = "SELECT pg_terminate_backend(pid), wait_event IS NOT DISTINCT FROM 'SyncRep' \
        FROM pg_stat_activity WHERE application_name = 'orchestrator' ORDER BY random() LIMIT 1";
    let (mut ended, mut in_commit) = (0, 0);
    let give_up = Instant::now() + Duration::from_secs(20);
    while ended < count {
        assert!(Instant::now() < give_up, "only {ended} sessions to end");
        let end = if ended % 2 == 0 { ANY } else { AT_WORK };
        let session = sqlx::query(end).fetch_optional(&mut *admin).await.unwrap();
        let Some(session) = session else {
            continue;
        };
        if session.get(0) {
            ended += 1;
            in_commit += usize::from(session.get::<bool, _>(1));
        }
        lasts(Duration::from_millis(fastrand::u64(0..80))).await;
    }
    in_commit
}
