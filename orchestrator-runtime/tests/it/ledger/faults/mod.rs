//! A PostgreSQL that is ill-treated under four pipelines at once: OUTBOX and LIGHTWEIGHT, each with a journal and
//! without. Kafka must not notice, and in the end the ledger is the truth: with a journal no row is missing, without
//! one exactly those that were counted.

mod outages;
mod pipeline;
mod statements;
mod strict;

use std::time::Duration;

use futures_util::future::join_all;
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};

use pipeline::Pipeline;

use super::truth::Strategy;

/// What a fault has to leave behind, so that it is known to have bitten.
#[derive(Clone, Copy, Debug)]
struct Bite {
    /// The class of errors that the database has to have given.
    class: &'static str,
    /// Whether it lasts for so long that the breaker opens, and rows are dropped where there is no journal.
    opens: bool,
}

fn server(options: PostgresOptions) -> Postgres {
    // Nobody pulls the plug: what is written is there after a stop, too.
    Postgres::start(options.own().setting("fsync", "off")).unwrap()
}

/// Four pipelines at work on this server.
async fn pipelines(server: &Postgres) -> Vec<Pipeline> {
    let both = [Strategy::Outbox, Strategy::Lightweight];
    let all = both.map(|strategy| [(strategy, true), (strategy, false)]);
    let starting = all.into_iter().flatten();
    let starting = starting.map(|(strategy, spills)| Pipeline::start(server, strategy, spills));
    join_all(starting).await
}

/// Lets the fault happen to four pipelines at work, and judges what came of it.
async fn survives(server: &Postgres, bite: Bite, fault: impl AsyncFnOnce(&[String])) {
    let mut pipelines = pipelines(server).await;
    let databases: Vec<String> = pipelines
        .iter()
        .map(|p| p.bed.table.database().to_owned())
        .collect();
    for pipeline in &mut pipelines {
        pipeline.fault_begins().await;
    }
    let (watching, over) = tokio::sync::watch::channel(false);
    let watchers = join_all(
        pipelines
            .iter_mut()
            .map(|pipeline| pipeline.watch(over.clone())),
    );
    let fault = async {
        fault(&databases).await;
        watching.send(true).unwrap();
    };
    tokio::join!(watchers, fault);
    let ends = pipelines.into_iter().map(|pipeline| pipeline.finish(bite));
    let findings: Vec<String> = join_all(ends).await.into_iter().flatten().collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// The time that a fault lasts: there is nothing to wait for but that.
async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}
