//! A PostgreSQL that is ill-treated under several pipelines at once: of each strategy one with a journal and one
//! without. Kafka must not notice, and in the end the ledger is the truth: with a journal no row is missing, without
//! one exactly those that were counted.

mod crowds;
mod disk;
mod ends;
mod outages;
mod pipeline;
mod statements;
mod strict;

use std::time::Duration;

use futures_util::future::join_all;
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};

use tokio::task::block_in_place;

use pipeline::Pipeline;

use super::truth::Strategy;
use crate::faults::given;
use crate::faults::scene::LIMIT;

/// What a fault has to leave behind, so that it is known to have bitten.
#[derive(Clone, Copy, Debug)]
struct Bite {
    /// What happens.
    what: &'static str,
    /// The class of errors that the database has to have given each pipeline.
    class: Option<&'static str>,
    /// Whether it lasts for so long that the breaker opens, and rows are dropped where there is no journal.
    opens: bool,
    /// How often it begins: each time statements have to time out until the breaker opens.
    begins: u8,
}

fn server(options: PostgresOptions) -> Postgres {
    // Nobody pulls the plug: what is written is there after a stop, too.
    Postgres::start(options.own().setting("fsync", "off")).unwrap()
}

/// Both strategies of which a table may be missing rows, with a journal and without.
const FOUR: [(Strategy, bool); 4] = [
    (Strategy::Outbox, true),
    (Strategy::Outbox, false),
    (Strategy::Lightweight, true),
    (Strategy::Lightweight, false),
];

/// Pipelines at work on this server, each with a journal or without.
async fn pipelines(server: &Postgres, which: &[(Strategy, bool)]) -> Vec<Pipeline> {
    pipelines_with(server, which, &[]).await
}

async fn pipelines_with(
    server: &Postgres,
    which: &[(Strategy, bool)],
    more: &[(&str, &str)],
) -> Vec<Pipeline> {
    let starting = which
        .iter()
        .map(|(strategy, spills)| Pipeline::start(server, *strategy, *spills, more));
    join_all(starting).await
}

/// Stops the server, does something with each pipeline, starts the server and does the rest.
async fn through_an_outage<S>(
    what: &str,
    server: &Postgres,
    pipelines: Vec<Pipeline>,
    during: impl AsyncFn(Pipeline) -> S,
    after: impl AsyncFn(S),
) {
    block_in_place(|| server.stop_immediate().unwrap());
    let states = join_all(pipelines.into_iter().map(|pipeline| during(pipeline))).await;
    block_in_place(|| server.restart().unwrap());
    let judged = join_all(states.into_iter().map(|state| after(state))).await;
    given::bitten(judged.len() as u64, what);
}

/// The same with RELIABLE, which is at the database with several statements at once.
const SIX: [(Strategy, bool); 6] = [
    (Strategy::Outbox, true),
    (Strategy::Outbox, false),
    (Strategy::Lightweight, true),
    (Strategy::Lightweight, false),
    (Strategy::Reliable, true),
    (Strategy::Reliable, false),
];

/// Those to whom a fault happens.
struct Victims {
    /// Of each the database.
    databases: Vec<String>,
    /// Whether each has felt it, in what it says of itself.
    feeling: Vec<tokio::sync::watch::Receiver<bool>>,
}

impl Victims {
    /// Lets the fault last so long, and until each of them has felt it: on a machine that is busy they are late to. One
    /// that does not within the limit is a finding of its own.
    async fn suffer(&self, at_least: Duration) {
        lasts(at_least).await;
        let feeling = self.feeling.iter().cloned();
        let all = join_all(feeling.map(async |mut felt| felt.wait_for(|felt| *felt).await.is_ok()));
        tokio::time::timeout(LIMIT, all).await.ok();
    }
}

/// Lets the fault happen to pipelines at work, and judges what came of it.
async fn survives(
    server: &Postgres,
    which: &[(Strategy, bool)],
    bite: Bite,
    fault: impl AsyncFnOnce(&Victims),
) {
    let mut pipelines = pipelines(server, which).await;
    let mut victims = Victims {
        databases: Vec::new(),
        feeling: Vec::new(),
    };
    for pipeline in &mut pipelines {
        pipeline.fault_begins().await;
    }
    let (watching, over) = tokio::sync::watch::channel(false);
    // Each in a task of its own: a fault may block.
    let watched = pipelines.into_iter().map(|mut pipeline| {
        let over = over.clone();
        let (felt, feeling) = tokio::sync::watch::channel(false);
        let database = pipeline.bed.table.database().to_owned();
        victims.databases.push(database);
        victims.feeling.push(feeling);
        tokio::spawn(async move {
            pipeline.watch(bite, felt, over).await;
            pipeline
        })
    });
    let watched: Vec<_> = watched.collect();
    fault(&victims).await;
    watching.send(true).unwrap();
    let pipelines = join_all(watched).await.into_iter().map(Result::unwrap);
    let ends = pipelines.map(|pipeline| pipeline.finish(bite));
    let findings: Vec<String> = join_all(ends).await.into_iter().flatten().collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    given::bitten(which.len() as u64, bite.what);
}

/// The time that a fault lasts: there is nothing to wait for but that.
async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}
