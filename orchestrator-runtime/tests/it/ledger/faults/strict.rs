//! `ORCH_DB_DEGRADE_DONT_BLOCK=false` while the server is away: nothing passes unrecorded, and partitions go on by
//! themselves. And processes that are killed during the outage: their journals have it all.

use std::time::Duration;

use orchestrator_testkit::postgres::PostgresOptions;
use orchestrator_testkit::wait;

use super::super::bed::Bed;
use super::super::truth::{Offsets, Strategy};
use super::pipeline::{Look, Pipeline};
use super::{lasts, pipelines, pipelines_with, server, through_an_outage};
use crate::faults::load::Load;
use crate::faults::scene::{LIMIT, drain};
use crate::faults::served::{held, wait_until_all_work};

const OUTAGE: Duration = Duration::from_secs(5);
/// A transaction that takes longer than so long to end is not at work.
const UNDER_WAY: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_held_while_it_is_away() {
    let server = server(PostgresOptions::new());
    let all = [Strategy::Outbox, Strategy::Reliable, Strategy::Lightweight];
    let which = all.map(|strategy| (strategy, false));
    let strict = [("ORCH_DB_DEGRADE_DONT_BLOCK", "false")];
    let pipelines = pipelines_with(&server, &which, &strict).await;
    let during = async |pipeline: Pipeline| {
        let Pipeline { bed, app, .. } = &pipeline;
        wait::until("all partitions are held", LIMIT, async || {
            let held = held(app).await;
            held.len() == 3 && held.values().all(|(_, reason)| reason == "database")
        })
        .await
        .unwrap();
        // What the ledger had taken before, or had nothing to hear of, may still be passed.
        let mut committed = bed.committed().await;
        wait::until("nothing is under way any more", LIMIT, async || {
            lasts(UNDER_WAY).await;
            let now = bed.committed().await;
            std::mem::replace(&mut committed, now.clone()) == now
        })
        .await
        .unwrap();
        lasts(OUTAGE).await;
        assert_eq!(bed.committed().await, committed, "something was passed");
        pipeline
    };
    let after = async |pipeline: Pipeline| {
        let Pipeline { bed, app, load, .. } = pipeline;
        wait_until_all_work(&[&app], 1_000).await;
        load.stop().await;
        bed.scene.wait_until_caught_up().await;
        let lives = [bed.whole_life(&Offsets::new()).await];
        assert_eq!(bed.settles(&lives).await.untold, 0);
        assert_eq!(Look::at(&app).await.dropped(), 0);
        assert_eq!(held(&app).await.len(), 0);
        drain(&app).await;
        bed.settles(&lives).await;
    };
    let what = "held while the database was away";
    through_an_outage(what, &server, pipelines, during, after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_is_away() {
    let server = server(PostgresOptions::new());
    let which = [(Strategy::Outbox, true), (Strategy::Lightweight, true)];
    let pipelines = pipelines(&server, &which).await;
    let during = async |pipeline: Pipeline| {
        let Pipeline { bed, app, load, .. } = pipeline;
        bed.scene.wait_for_progress(1_000).await;
        assert!(Look::at(&app).await.sum("orch_ledger_spill_bytes", "") > 0);
        app.kill().await.unwrap();
        (bed, load)
    };
    let after = async |(bed, load): (Bed, Load)| {
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
    };
    let what = "killed while the database was away";
    through_an_outage(what, &server, pipelines, during, after).await;
}
