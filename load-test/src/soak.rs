//! `load-test soak`: orders through a program for as long as it takes, and then the audit: every one exactly one of
//! output, dead letter and ledger row. Exits with 1 if anything is lost, doubled, out of order or extra.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::workspace;

use crate::Property;
use crate::bed::{Bed, BedArgs};
use crate::drive::{self, Run};
use crate::order_audit;
use crate::report::{self, Story};
use crate::traffic::{self, Plan, ms};

/// Failures in all three places, so that all are audited.
const DEFAULTS: [(&str, &str); 3] = [
    ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
    ("ORCH_DLQ_TOPIC", "{topic}.dlq"),
    ("ORCH_DB_STRATEGY", "LIGHTWEIGHT"),
];

/// What is sent, and how fast.
#[derive(Args, Debug)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    bed: BedArgs,
    /// Orders to send
    #[arg(long, visible_alias = "records", default_value_t = 1_000_000)]
    num_records: u64,
    /// Orders per second, each sent at its moment; as fast as they can be sent unless given
    #[arg(long, visible_alias = "rate")]
    throughput: Option<f64>,
    /// The share of orders that cannot be enriched, 0.0 to 1.0
    #[arg(long, default_value_t = 0.001)]
    poison: f64,
    /// Different keys
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Bytes of one order, about 300 at least, filled up by its note
    #[arg(long, visible_alias = "size", default_value_t = 316)]
    record_size: usize,
    /// The same seed gives the same orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A librdkafka setting of the producer of orders, key=value (repeatable)
    #[arg(long)]
    producer_property: Vec<Property>,
    /// Give up when nothing has come out for so long
    #[arg(long, default_value_t = 60)]
    patience_seconds: u64,
    /// Where the reports go; a new folder below target/load-test unless given
    #[arg(long)]
    report_dir: Option<PathBuf>,
}

pub(crate) fn run(args: &SoakArgs) -> Result<ExitCode> {
    let folder = report_dir(args.report_dir.as_ref(), "soak")?;
    let mut bed = Bed::make(&args.bed, &DEFAULTS, &folder)?;
    let plan = plan(args, &bed)?;
    println!("sending {} orders to {} ..", args.num_records, plan.source);
    let patience = Duration::from_secs(args.patience_seconds);
    let run = drive::drive(&bed, &plan, Duration::ZERO, patience)?;
    let mut complaints = complaints(&run, patience);
    let exit = bed.stop(&mut complaints);
    bed.scope.num_records = match run.broken {
        // What was never sent is not missing.
        Some(_) => run.counts.sent,
        None => args.num_records,
    };
    println!("auditing ..");
    let verdict = order_audit::audit(&bed.scope)
        .inspect_err(|error| complaints.push(format!("the audit could not be made: {error:#}")))
        .ok();
    let story = Story {
        command: "soak",
        settings: settings(args, &bed),
        run: &run,
        verdict: verdict.as_ref(),
        exit,
        open_loop: args.throughput.is_some(),
        complaints,
    };
    tell(&story);
    story.leave(&folder)
}

fn plan(args: &SoakArgs, bed: &Bed) -> Result<Plan> {
    Ok(Plan {
        servers: bed.broker.servers.clone(),
        source: bed.scope.source.0.clone(),
        orders: Orders::new(args.seed)
            .bytes(args.record_size)
            .keys(args.keys)
            .poison(args.poison),
        num_records: args.num_records,
        rate: args.throughput,
        producer_properties: args.producer_property.clone(),
        outputs: traffic::from(&bed.scope.target.0, &bed.scope.target.1)?,
        dead_letters: match &bed.scope.dead_letters {
            Some((topic, starts)) => traffic::from(topic, starts)?,
            None => rdkafka::TopicPartitionList::new(),
        },
    })
}

fn complaints(run: &Run, patience: Duration) -> Vec<String> {
    let mut complaints: Vec<String> = run.broken.iter().cloned().collect();
    if run.stalled {
        let counts = run.counts;
        complaints.push(format!(
            "nothing came out for {patience:?}: {} of {} orders are accounted for",
            counts.accounted, counts.sent
        ));
    }
    complaints
}

/// A new folder, unless one is named.
pub(crate) fn report_dir(given: Option<&PathBuf>, command: &str) -> Result<PathBuf> {
    let folder = given.cloned().unwrap_or_else(|| {
        let name = orchestrator_testkit::admin::fresh(command);
        workspace::target_dir().join("load-test").join(name)
    });
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn settings(args: &SoakArgs, bed: &Bed) -> Vec<(String, String)> {
    let rate = args
        .throughput
        .map_or("as fast as possible".to_owned(), |rate| format!("{rate}/s"));
    let own = [
        ("orders", report::grouped(args.num_records)),
        ("rate", rate),
        ("poison", args.poison.to_string()),
        ("keys", args.keys.to_string()),
        ("bytes of an order", args.record_size.to_string()),
        ("seed", args.seed.to_string()),
    ];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
    own.chain(bed.shown_env()).collect()
}

fn tell(story: &Story<'_>) {
    let run = story.run;
    let quantile = |q| ms(&run.seconds.latencies, q);
    let found = match story.verdict {
        Some(verdict) => format!(
            "{} orders, {} outputs, {} dead letters, {} ledger rows",
            verdict.orders, verdict.outputs, verdict.dead_letters, verdict.ledger_rows
        ),
        None => format!(
            "{} orders sent, {} seen",
            run.counts.sent, run.counts.accounted
        ),
    };
    println!(
        "{found} in {:.1} s: {:.0} records/s",
        run.took.as_secs_f64(),
        run.counts.accounted as f64 / run.took.as_secs_f64(),
    );
    println!(
        "latency from {}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        story.measured_from(),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
    for finding in story.verdict.iter().flat_map(|verdict| &verdict.findings) {
        println!("WRONG: {finding}");
    }
    if story.is_well() {
        println!("every order is accounted for, exactly once and in order");
    }
}
