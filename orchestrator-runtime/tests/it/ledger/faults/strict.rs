//! `ORCH_DB_DEGRADE_DONT_BLOCK=false` while the server is away: nothing passes unrecorded, and partitions go on by
//! themselves. And a process that is killed during the outage: its journal has it all.

use std::time::Duration;

use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
use orchestrator_testkit::wait;
use tokio::task::block_in_place;

use super::super::truth::{Offsets, Strategy};
use super::pipeline::{Look, Pipeline};
use super::{lasts, server};
use crate::faults::scene::{LIMIT, drain};
use crate::faults::served::{held, wait_until_all_work};

const OUTAGE: Duration = Duration::from_secs(5);

async fn held_while_it_is_away(strategy: Strategy) {
    let server = server(PostgresOptions::new());
    let strict = [("ORCH_DB_DEGRADE_DONT_BLOCK", "false")];
    let pipeline = Pipeline::start_with(&server, strategy, false, &strict).await;
    let Pipeline { bed, app, load, .. } = pipeline;
    block_in_place(|| server.stop_immediate().unwrap());
    wait::until("all partitions are held", LIMIT, async || {
        let held = held(&app).await;
        held.len() == 3 && held.values().all(|(_, reason)| reason == "database")
    })
    .await
    .unwrap();
    let committed = bed.committed().await;
    lasts(OUTAGE).await;
    assert_eq!(bed.committed().await, committed, "something was passed");
    block_in_place(|| server.restart().unwrap());
    wait_until_all_work(&[&app], 1_000).await;
    load.stop().await;
    bed.scene.wait_until_caught_up().await;
    let lives = [bed.whole_life(&Offsets::new()).await];
    assert_eq!(bed.settles(&lives).await.untold, 0);
    assert_eq!(Look::at(&app).await.dropped(), 0);
    assert_eq!(held(&app).await.len(), 0);
    drain(&app).await;
    bed.settles(&lives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outbox_holds_while_it_is_away() {
    held_while_it_is_away(Strategy::Outbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lightweight_holds_while_it_is_away() {
    held_while_it_is_away(Strategy::Lightweight).await;
}

async fn killed_while_it_is_away(server: &Postgres, strategy: Strategy) {
    let pipeline = Pipeline::start(server, strategy, true).await;
    let Pipeline { bed, app, load, .. } = pipeline;
    block_in_place(|| server.stop_immediate().unwrap());
    bed.scene.wait_for_progress(1_000).await;
    assert!(Look::at(&app).await.sum("orch_ledger_spill_bytes", "") > 0);
    app.kill().await.unwrap();
    block_in_place(|| server.restart().unwrap());

    let app = bed.start("solo");
    wait_until_all_work(&[&app], 400).await;
    load.stop().await;
    bed.scene.wait_until_caught_up().await;
    let mut life = bed.whole_life(&Offsets::new()).await;
    life.killed = true;
    let lives = [life];
    bed.settles(&lives).await;
    assert_eq!(Look::at(&app).await.dropped(), 0);
    drain(&app).await;
    bed.settles(&lives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outbox_is_killed_while_it_is_away() {
    killed_while_it_is_away(&server(PostgresOptions::new()), Strategy::Outbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lightweight_is_killed_while_it_is_away() {
    killed_while_it_is_away(&server(PostgresOptions::new()), Strategy::Lightweight).await;
}
