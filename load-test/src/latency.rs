//! `load-test latency`: orders in an open loop, each sent at its own moment and measured from it, whatever became of
//! those before; no sample is dropped. The first seconds do not count, and a generator that was late itself is named.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use orchestrator_testkit::orders::Orders;

use crate::Property;
use crate::bed::{Bed, BedArgs};
use crate::drive::{self, Run};
use crate::report::Story;
use crate::soak::report_dir;
use crate::traffic::{self, Plan, ms};

/// The runtime's own defaults, and no database beside it.
const DEFAULTS: [(&str, &str); 1] = [("ORCH_DB_STRATEGY", "NONE")];
const PATIENCE: Duration = Duration::from_secs(60);
/// Beyond this share of what is measured, lateness of the generator is part of the result.
const LATE_SHARE: f64 = 0.1;

/// How fast, and for how long.
#[derive(Args, Debug)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    bed: BedArgs,
    /// Orders per second
    #[arg(long, visible_alias = "rate", default_value_t = 2_000.0)]
    throughput: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seconds before them that are not: the broker's JVM compiles what it does often, on the same cores
    #[arg(long, default_value_t = 50)]
    warm_up_seconds: u64,
    /// Bytes of one order, about 300 at least, filled up by its note
    #[arg(long, visible_alias = "size", default_value_t = 316)]
    record_size: usize,
    /// The same seed gives the same orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A librdkafka setting of the producer of orders, key=value (repeatable)
    #[arg(long)]
    producer_property: Vec<Property>,
    /// Fail if more than one percent takes longer
    #[arg(long)]
    max_p99_ms: Option<f64>,
    /// Where the reports go; a new folder below target/load-test unless given
    #[arg(long)]
    report_dir: Option<PathBuf>,
}

pub(crate) fn run(args: &LatencyArgs) -> Result<ExitCode> {
    ensure!(args.throughput > 0.0, "--throughput must be above 0");
    let folder = report_dir(args.report_dir.as_ref(), "latency")?;
    let mut bed = Bed::make(&args.bed, &DEFAULTS, &folder)?;
    bed.wait_until_ready()?;
    let total = args.throughput * (args.seconds + args.warm_up_seconds) as f64;
    let plan = Plan {
        servers: bed.broker.servers.clone(),
        source: bed.scope.source.0.clone(),
        orders: Orders::new(args.seed).bytes(args.record_size),
        num_records: total as u64,
        rate: Some(args.throughput),
        producer_properties: args.producer_property.clone(),
        outputs: traffic::from(&bed.scope.target.0, &bed.scope.target.1)?,
        dead_letters: rdkafka::TopicPartitionList::new(),
    };
    println!(
        "sending {} orders per second to {} ..",
        args.throughput, plan.source
    );
    let warm_up = Duration::from_secs(args.warm_up_seconds);
    let run = drive::drive(&bed, &plan, warm_up, PATIENCE)?;
    let mut complaints = complaints(args, &run);
    let exit = bed.stop(&mut complaints);
    let story = Story {
        command: "latency",
        settings: settings(args, &bed),
        complaints,
        run: &run,
        verdict: None,
        exit,
        open_loop: true,
    };
    tell(&story);
    story.leave(&folder)
}

fn complaints(args: &LatencyArgs, run: &Run) -> Vec<String> {
    let counts = run.counts;
    let mut complaints: Vec<String> = run.broken.iter().cloned().collect();
    if run.stalled {
        complaints.push(format!(
            "{} of {} orders never came out",
            counts.sent - counts.accounted,
            counts.sent
        ));
    }
    if counts.repeated + counts.strange > 0 {
        complaints.push(format!(
            "{} outputs came out again, {} were nobody's",
            counts.repeated, counts.strange
        ));
    }
    let p99 = ms(&run.seconds.latencies, 0.99);
    if let Some(most) = args.max_p99_ms
        && p99 > most
    {
        complaints.push(format!("p99 is {p99:.1} ms, above --max-p99-ms {most}"));
    }
    complaints
}

fn settings(args: &LatencyArgs, bed: &Bed) -> Vec<(String, String)> {
    let own = [
        ("rate", format!("{}/s, open loop", args.throughput)),
        ("warm-up", format!("{} s", args.warm_up_seconds)),
        ("measured", format!("{} s", args.seconds)),
        ("bytes of an order", args.record_size.to_string()),
    ];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
    own.chain(bed.shown_env()).collect()
}

fn tell(story: &Story<'_>) {
    let seconds = &story.run.seconds;
    let quantile = |q| ms(&seconds.latencies, q);
    println!(
        "{} samples from {}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
        seconds.latencies.len(),
        story.measured_from(),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        quantile(0.999),
        quantile(1.0),
    );
    let late = ms(&seconds.late, 0.99);
    if late > quantile(0.99) * LATE_SHARE {
        println!(
            "note: the generator itself was late, 1 % of the orders by {late:.1} ms and more: a slower rate or a quieter \
             machine says more about the program"
        );
    }
}
