//! Partitions that go from one process to another while the server is away: rows of both wait, and come in any order.

use orchestrator_testkit::postgres::PostgresOptions;
use orchestrator_testkit::process::Process;
use orchestrator_testkit::wait;

use super::super::bed::Bed;
use super::super::truth::{Offsets, Strategy};
use super::pipeline::{Look, Pipeline};
use super::{FOUR, pipelines, server, through_an_outage};
use crate::faults::load::Load;
use crate::faults::scene::{LIMIT, drain};
use crate::faults::served::wait_until_all_work;

/// Waits until the ledgers of these are well, and nothing waits; gives back how many rows they gave up.
async fn wait_until_well(apps: &[&Process]) -> i64 {
    let mut dropped = 0;
    let well = wait::until("the ledgers are well", LIMIT, async || {
        dropped = 0;
        let mut all_well = true;
        for app in apps {
            let look = Look::at(app).await;
            dropped += look.dropped();
            all_well &= look.sum("orch_db_degraded", "") == 0;
            all_well &= look.sum("orch_ledger_rows_waiting", "") == 0;
        }
        all_well
    });
    well.await.unwrap();
    dropped
}

/// A second process comes during the outage, and is alone after it.
#[tokio::test(flavor = "multi_thread")]
async fn shared_while_it_is_away() {
    let server = server(PostgresOptions::new());
    let pipelines = pipelines(&server, &FOUR).await;
    let during = async |pipeline: Pipeline| {
        pipeline.bed.scene.wait_for_progress(500).await;
        let second = pipeline.bed.start("second");
        wait_until_all_work(&[&pipeline.app, &second], 200).await;
        (pipeline, second)
    };
    let after = async |(pipeline, second): (Pipeline, Process)| {
        let Pipeline {
            bed,
            app,
            spills,
            load,
            ..
        } = pipeline;
        wait_until_all_work(&[&app, &second], 200).await;
        let dropped = wait_until_well(&[&app, &second]).await;
        drain(&app).await;
        wait_until_all_work(&[&second], 100).await;
        load.stop().await;
        bed.scene.wait_until_caught_up().await;
        let lives = [bed.whole_life(&Offsets::new()).await];
        let judged = bed.settles_with(&lives, |judged| judged.missing as i64 <= dropped);
        let judged = judged.await;
        assert_eq!((judged.missing as i64, judged.untold), (dropped, 0));
        assert_eq!(dropped == 0, spills, "{dropped} were dropped");
        drain(&second).await;
    };
    let what = "a process joined while the database was away";
    through_an_outage(what, &server, pipelines, during, after).await;
}

/// The first is killed during the outage and never comes back: whoever has its folder writes what it has left.
#[tokio::test(flavor = "multi_thread")]
async fn inherited_while_it_is_away() {
    let server = server(PostgresOptions::new());
    let which = [(Strategy::Outbox, true), (Strategy::Lightweight, true)];
    let pipelines = pipelines(&server, &which).await;
    let during = async |pipeline: Pipeline| {
        let Pipeline { bed, app, load, .. } = pipeline;
        bed.scene.wait_for_progress(500).await;
        let heir = bed.start("heir");
        wait_until_all_work(&[&app, &heir], 200).await;
        app.kill().await.unwrap();
        wait_until_all_work(&[&heir], 200).await;
        (bed, heir, load)
    };
    let after = async |(bed, heir, load): (Bed, Process, Load)| {
        load.stop().await;
        bed.scene.wait_until_caught_up().await;
        let mut life = bed.whole_life(&Offsets::new()).await;
        life.killed = true;
        let lives = [life];
        bed.settles(&lives).await;
        assert_eq!(wait_until_well(&[&heir]).await, 0);
        drain(&heir).await;
        bed.settles(&lives).await;
    };
    let what = "a process died for good while the database was away";
    through_an_outage(what, &server, pipelines, during, after).await;
}
