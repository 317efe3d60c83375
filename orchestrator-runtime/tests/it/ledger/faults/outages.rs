//! The server is away, or as good as: stopped, paused, out of connections, read-only.

use std::time::Duration;

use orchestrator_testkit::postgres::PostgresOptions;
use sqlx::{Connection, Executor, PgConnection};
use tokio::task::block_in_place;

use super::{Bite, FOUR, lasts, server, survives};

/// The one outage that lasts as long as a restart by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_for_20_s() {
    let server = server(PostgresOptions::new());
    let bite = Bite {
        what: "the database stopped",
        class: Some("unavailable"),
        opens: true,
        begins: 1,
    };
    survives(&server, &FOUR, bite, async |victims| {
        block_in_place(|| server.stop_immediate().unwrap());
        victims.suffer(Duration::from_secs(20)).await;
        block_in_place(|| server.restart().unwrap());
    })
    .await;
}

/// It stands still again and again, with all connections open.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_paused_in_bursts() {
    let server = server(PostgresOptions::new());
    let bite = Bite {
        what: "the database paused",
        class: Some("timeout"),
        opens: true,
        begins: 3,
    };
    survives(&server, &FOUR, bite, async |victims| {
        let paused = Duration::from_millis(2_500);
        for _ in 0..2 {
            block_in_place(|| server.pause().unwrap());
            lasts(paused).await;
            block_in_place(|| server.resume().unwrap());
            lasts(Duration::from_millis(500)).await;
        }
        block_in_place(|| server.pause().unwrap());
        victims.suffer(paused).await;
        block_in_place(|| server.resume().unwrap());
    })
    .await;
}

/// Idle clients take each connection that becomes free, until they have every one.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_connections_are_taken_by_idle_clients() {
    const CONNECTIONS: u16 = 24;
    let options = PostgresOptions::new().max_connections(CONNECTIONS);
    let server = server(options.setting("superuser_reserved_connections", "0"));
    let bite = Bite {
        what: "connections of the database used up",
        class: Some("exhausted"),
        opens: true,
        begins: 1,
    };
    survives(&server, &FOUR, bite, async |victims| {
        let url = server.url("postgres");
        let mut admin = PgConnection::connect(&url).await.unwrap();
        let mut idle = Vec::new();
        while idle.len() < usize::from(CONNECTIONS) - 1 {
            end_ours(&mut admin).await;
            while let Ok(client) = PgConnection::connect(&url).await {
                idle.push(client);
            }
        }
        // None of them gets in any more.
        victims.suffer(Duration::from_secs(6)).await;
        drop(idle);
    })
    .await;
}

/// Ends the sessions of the pipelines.
async fn end_ours(admin: &mut PgConnection) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'orchestrator'";
    admin.execute(end).await.unwrap();
}

/// As after a failover: it is there, and takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_read_only() {
    let server = server(PostgresOptions::new());
    let bite = Bite {
        what: "the database read-only",
        class: Some("unavailable"),
        opens: true,
        begins: 1,
    };
    survives(&server, &FOUR, bite, async |victims| {
        let url = server.url("postgres");
        let mut admin = PgConnection::connect(&url).await.unwrap();
        for setting in ["on", "off"] {
            admin
                .execute("SET default_transaction_read_only = off")
                .await
                .unwrap();
            let alter = format!("ALTER SYSTEM SET default_transaction_read_only = {setting}");
            admin.execute(sqlx::AssertSqlSafe(alter)).await.unwrap();
            admin.execute("SELECT pg_reload_conf()").await.unwrap();
            if setting == "on" {
                victims.suffer(Duration::from_secs(6)).await;
            }
        }
    })
    .await;
}
