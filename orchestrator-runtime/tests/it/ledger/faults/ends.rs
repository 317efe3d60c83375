//! Processes that begin or end while the server is away. Of one that ends without a journal the log has to account
//! for every row that is missing.

use orchestrator_testkit::postgres::PostgresOptions;
use orchestrator_testkit::process::Process;
use serde_json::Value;
use tokio::task::block_in_place;

use super::super::bed::Bed;
use super::super::table::Table;
use super::super::truth::{Life, Mode, Offsets, Strategy};
use super::pipeline::Pipeline;
use super::{FOUR, pipelines, server, through_an_outage};
use crate::faults::given;
use crate::faults::scene::drain;
use crate::faults::served::wait_until_all_work;

/// How many rows the log says were dropped: by name, as a range, or summed up.
pub(super) fn dropped_by_the_log(app: &Process) -> usize {
    let lines = app.lines().into_iter();
    let lines = lines.filter_map(|line| serde_json::from_str::<Value>(&line.text).ok());
    let rows = lines.filter_map(|line| {
        let message = line["message"].as_str()?;
        let is_many = ["rows dropped:", "rows were dropped, not named"];
        match message {
            "ledger row dropped" => Some(1),
            _ if is_many.iter().any(|words| message.contains(words)) => {
                line["labels.rows"].as_u64()
            }
            _ => None,
        }
    });
    usize::try_from(rows.sum::<u64>()).unwrap()
}

/// A process is drained during the outage; the next one goes on after it.
#[tokio::test(flavor = "multi_thread")]
async fn drained_while_it_is_away() {
    let server = server(PostgresOptions::new());
    let pipelines = pipelines(&server, &FOUR).await;
    let during = async |pipeline: Pipeline| {
        pipeline.bed.scene.wait_for_progress(500).await;
        drain(&pipeline.app).await;
        let middle = pipeline.bed.committed().await;
        (pipeline, middle)
    };
    let after = async |(pipeline, middle): (Pipeline, Offsets)| {
        let Pipeline {
            bed,
            app,
            spills,
            load,
            ..
        } = pipeline;
        let dropped = dropped_by_the_log(&app);
        assert_eq!(dropped == 0, spills, "{dropped} were dropped");
        let second = bed.start("solo");
        wait_until_all_work(&[&second], 200).await;
        load.stop().await;
        bed.scene.wait_until_caught_up().await;
        let mut first_life = Life::new(&Offsets::new(), middle.clone());
        // Of rows that were written before the outage it could not say any more that their records were passed.
        first_life.killed = !spills;
        let lives = [first_life, bed.whole_life(&middle).await];
        drain(&second).await;
        // It found as much to do as there was, with as little room, at a server that was just up.
        let dropped = dropped + dropped_by_the_log(&second);
        let judged = bed.settles_with(&lives, |judged| judged.missing <= dropped);
        assert_eq!(judged.await.missing, dropped);
    };
    let what = "drained while the database was away";
    through_an_outage(what, &server, pipelines, during, after).await;
}

/// The server is not there at the start, and its database has no table yet.
#[tokio::test(flavor = "multi_thread")]
async fn started_while_it_is_away() {
    let server = server(PostgresOptions::new());
    let mut beds = Vec::new();
    for strategy in [Strategy::Outbox, Strategy::Lightweight] {
        let bed = Bed::with_table(strategy, Table::on(&server), Mode::SkipAndLog).await;
        let spill_dir = bed.table.folder().join("spill").display().to_string();
        let bed = bed.with("ORCH_SPILL_DIR", spill_dir);
        bed.write_orders(1_000, |index| (index % 10 == 7).then_some("permanent"))
            .await;
        beds.push(bed);
    }
    block_in_place(|| server.stop_immediate().unwrap());
    let apps: Vec<_> = beds.iter().map(|bed| bed.start("solo")).collect();
    for bed in &beds {
        bed.scene.wait_until_caught_up().await;
    }
    block_in_place(|| server.restart().unwrap());
    for (bed, app) in beds.iter().zip(&apps) {
        let lives = [bed.whole_life(&Offsets::new()).await];
        assert_eq!(bed.settles(&lives).await.untold, 0);
        drain(app).await;
        bed.settles(&lives).await;
    }
    given::bitten(apps.len() as u64, "started while the database was away");
}
