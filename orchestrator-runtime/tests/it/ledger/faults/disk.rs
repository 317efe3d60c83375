//! The server is away, and the disk of the spill journal is full.

use orchestrator_testkit::postgres::PostgresOptions;
use orchestrator_testkit::process::Limit;
use orchestrator_testkit::wait;
use tokio::task::block_in_place;

use super::super::bed::Bed;
use super::super::table::Table;
use super::super::truth::{Mode, Offsets, Strategy};
use super::ends::dropped_by_the_log;
use super::server;
use crate::faults::given;
use crate::faults::scene::{LIMIT, drain};
use crate::faults::served::{counted, wait_until_all_work};

/// Some rows fit.
const FILE_BYTES: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_on_a_full_disk_costs_the_rows_that_are_counted() {
    let server = server(PostgresOptions::new());
    let table = Table::on(&server);
    let spill = table.folder().join("spill");
    let bed = Bed::with_table(Strategy::Lightweight, table, Mode::SkipAndLog)
        .await
        .with("ORCH_DB_TIMEOUT_MS", "400")
        .with("ORCH_DB_CIRCUIT_OPEN_MS", "500")
        .with("ORCH_DB_QUEUE_MAX_ROWS", "30")
        .with("ORCH_SPILL_DIR", spill.display().to_string());
    let program = bed.program().env("ORCH_INSTANCE_ID", "solo");
    let app = program.after("trap '' XFSZ").start().unwrap();
    let load = bed.load(600);
    wait_until_all_work(&[&app], 200).await;

    app.limit(Limit::FileBytes, Some(FILE_BYTES)).unwrap();
    block_in_place(|| server.stop_immediate().unwrap());
    let full = app.wait_for_line(LIMIT, |line| {
        line.contains("the spill journal does not work")
    });
    full.await.unwrap();
    wait::until("rows are dropped", LIMIT, async || {
        counted(&app, "orch_ledger_rows_dropped_total").await > 0
    })
    .await
    .unwrap();
    // Kafka goes on.
    wait_until_all_work(&[&app], 1_000).await;
    app.limit(Limit::FileBytes, None).unwrap();
    let works = app.wait_for_line(LIMIT, |line| line.contains("the spill journal works again"));
    works.await.unwrap();
    block_in_place(|| server.restart().unwrap());

    wait_until_all_work(&[&app], 200).await;
    load.stop().await;
    bed.scene.wait_until_caught_up().await;
    let lives = [bed.whole_life(&Offsets::new()).await];
    let by_the_counter = counted(&app, "orch_ledger_rows_dropped_total").await;
    drain(&app).await;
    let dropped = dropped_by_the_log(&app);
    println!("dropped: {by_the_counter} before the drain, {dropped} in the end");
    let judged = bed.settles_with(&lives, |judged| judged.missing <= dropped);
    assert_eq!(judged.await.missing, dropped);
    given::bitten(1, "the disk of the spill journal full");
}
