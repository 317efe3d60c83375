//! `load-test compare`: programs on the same orders, in turn, each run with a fresh target topic and group: the hand-written
//! floor, the program, any others; or the program with itself, with faults and without. Called by `main`; `measure`
//! times a run, `report` says what came out.
//!
//! A run counts only if its target holds exactly one output per sound order for a read_committed reader: a program that
//! is fast because it loses or repeats records is an error here, not a result.

mod contestant;
pub(crate) mod measure;
pub(crate) mod progress;
mod report;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use orchestrator_testkit::orders::Orders;

use crate::broker::{Broker, BrokerArgs};
use crate::topics::{self, Contents};
use crate::{Property, fill, floor};
use contestant::{Contestant, Place, Rival};
use measure::Measured;
use progress::Progress;
pub(crate) use report::{Report, Sample};

/// What says who else takes part, or how: without a meaning where the program is compared with itself.
const OTHERS: [&str; 4] = [
    "with",
    "other",
    "floor_cpu_us",
    "floor_records_per_transaction",
];

/// What is compared, on how much, how often.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Program to compare, split at blanks, started without a shell; example-app unless given. It gets
    /// ORCH_BOOTSTRAP_SERVERS, ORCH_SOURCE_TOPICS, ORCH_TARGET_TOPIC, ORCH_GROUP_ID, ORCH_HTTP_ADDR=off and
    /// ORCH_DB_STRATEGY=NONE; {bootstrap-servers}, {source}, {target}, {group} and {num-records} are filled in
    #[arg(long)]
    command: Option<String>,
    /// Environment of the program, KEY=VALUE (repeatable)
    #[arg(long)]
    env: Vec<Property>,
    /// What it is compared with; the first is the baseline
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "floor,floor-at-least-once,copy"
    )]
    with: Vec<Rival>,
    /// Another program, name=command as in --command (repeatable)
    #[arg(long)]
    other: Vec<Property>,
    /// Microseconds of CPU that each record costs the floor on top
    #[arg(long, default_value_t = 0)]
    floor_cpu_us: u64,
    /// Most records in one transaction of the floor, or in one commit without; two times as many are in its memory
    #[arg(long, default_value_t = floor::RECORDS_PER_TRANSACTION)]
    floor_records_per_transaction: u64,
    /// Orders in the source topic
    #[arg(long, default_value_t = 1_000_000)]
    num_records: u64,
    /// Bytes of one order
    #[arg(long, default_value_t = 316)]
    record_size: usize,
    /// Partitions of source and target
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// The same seed gives the same orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Compare the program with itself: on orders of which this share cannot be enriched, against orders without
    #[arg(long, conflicts_with_all = OTHERS)]
    poison: Option<f64>,
    /// Compare the program with itself: on orders of which some have this x-fault header (transient:1, say), against
    /// orders without
    #[arg(long, conflicts_with = "poison", conflicts_with_all = OTHERS)]
    fault: Option<String>,
    /// Every how many orders one has it
    #[arg(long, default_value_t = 1000)]
    fault_every: u64,
    /// Measured rounds of one run each
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Rounds before them that are not counted; the broker's JVM warms up in them
    #[arg(long, default_value_t = 1)]
    warm_up_rounds: u32,
    /// Longest one run may take
    #[arg(long, default_value_t = 300)]
    run_limit_seconds: u64,
    /// Fail if the program's throughput is below this share of the baseline's
    #[arg(long)]
    min_throughput_ratio: Option<f64>,
    /// Fail if the program's CPU time per record is above this multiple of the baseline's
    #[arg(long)]
    max_cpu_ratio: Option<f64>,
}

/// Prints every run as it ends and the comparison at the end.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let broker = Broker::get(&args.broker)?;
    let report = compare(args, &broker)?;
    print!("{}", report.summary());
    report.check(args.min_throughput_ratio, args.max_cpu_ratio)
}

/// Runs the comparison on a broker.
pub(crate) fn compare(args: &CompareArgs, broker: &Broker) -> Result<Report> {
    let contestants = contestant::chosen(args)?;
    let id = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let mut comparison = Comparison {
        args,
        id: format!("compare-{id}"),
        logs: env::temp_dir().join(format!("load-test-{id}")),
        topics: Vec::new(),
        outputs: None,
        broker,
    };
    fs::create_dir_all(&comparison.logs)?;
    println!("logs of the runs: {}", comparison.logs.display());
    let compared = comparison.compare(&contestants);
    let deleted = topics::delete(&broker.servers, &comparison.topics);
    let report = compared?;
    deleted?;
    Ok(report)
}

struct Comparison<'a> {
    args: &'a CompareArgs,
    /// Begins the name of every topic and group, so that comparisons do not meet.
    id: String,
    logs: PathBuf,
    /// Created so far.
    topics: Vec<String>,
    /// What the first run wrote; all others that do the same work must write the same.
    outputs: Option<Contents>,
    broker: &'a Broker,
}

impl Comparison<'_> {
    fn compare(&mut self, contestants: &[Contestant]) -> Result<Report> {
        let args = self.args;
        let clean = self.source("source", None, 0.0)?;
        let faulty = if args.fault.is_some() || args.poison.is_some() {
            let poison = args.poison.unwrap_or(0.0);
            self.source("faulty", args.fault.as_ref(), poison)?
        } else {
            clean.clone()
        };
        println!(
            "{} orders of {} bytes in {} partitions\n{}",
            args.num_records,
            args.record_size,
            args.partitions,
            Report::header(self.broker.pid.is_some())
        );

        let names = contestants.iter().map(|one| one.name.clone());
        let mut report = Report::new(names, self.broker.pid.is_some());
        for round in 0..args.warm_up_rounds + args.rounds {
            // Whoever goes second finds a warmer machine: take turns at that too.
            let mut order: Vec<usize> = (0..contestants.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let contestant = &contestants[at];
                let source = if contestant.faulty { &faulty } else { &clean };
                let measured = self.measure(contestant, round, source)?;
                let counted = round >= args.warm_up_rounds;
                println!("{}", Report::row(&contestant.name, &measured, counted));
                if counted {
                    report.add(at, measured);
                }
            }
        }
        Ok(report)
    }

    /// Fills a topic with the orders.
    fn source(&mut self, name: &str, fault: Option<&String>, poison: f64) -> Result<String> {
        let args = self.args;
        let topic = format!("{}-{name}", self.id);
        self.topics.push(topic.clone());
        fill::run(&fill::FillArgs {
            bootstrap_servers: self.broker.servers.clone(),
            topic: topic.clone(),
            num_records: args.num_records,
            record_size: args.record_size,
            partitions: args.partitions,
            seed: args.seed,
            poison,
            fault: fault.cloned(),
            fault_every: args.fault_every,
        })?;
        Ok(topic)
    }

    fn measure(&mut self, contestant: &Contestant, round: u32, source: &str) -> Result<Measured> {
        let args = self.args;
        let servers = self.broker.servers.clone();
        // Kafka takes no other characters in a topic's name.
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name = contestant.name.replace(|c| !legal(c), "-");
        let run = format!("{}-{name}-{round}", self.id);
        let place = Place {
            servers: &servers,
            source,
            target: &run,
            dlq: &format!("{run}.dlq"),
            group: &run,
            num_records: args.num_records,
            folder: &self.logs,
        };
        for topic in [place.target, place.dlq] {
            topics::create(&servers, topic, args.partitions)?;
            self.topics.push(topic.to_owned());
        }
        let naming = || format!("{}, round {round}", contestant.name);
        let log = self.logs.join(format!("{}-{round}.log", contestant.name));
        let measured = measure::run(
            &contestant.program(&place)?.log(log),
            &Progress::watch(&servers, source, &run)?,
            self.broker.pid,
            args.num_records,
            Duration::from_secs(args.run_limit_seconds),
        )
        .with_context(naming)?;

        let outputs = topics::contents(&servers, &run)?;
        let poison = match args.poison {
            Some(share) if contestant.faulty => poisoned(args, share),
            _ => 0,
        };
        let expected = args.num_records - poison;
        ensure!(
            outputs.records == expected,
            "{}: {} outputs for {expected} sound orders",
            naming(),
            outputs.records
        );
        if !contestant.other_outputs
            && poison == 0
            && *self.outputs.get_or_insert(outputs) != outputs
        {
            println!(
                "note: the outputs of {} differ from those of the first run",
                naming()
            );
        }
        Ok(measured)
    }
}

fn poisoned(args: &CompareArgs, share: f64) -> u64 {
    let orders = Orders::new(args.seed).bytes(args.record_size).poison(share);
    let all = orders.range(0..args.num_records);
    all.filter(|order| order.poison.is_some()).count() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::error::ErrorKind;

    use super::{CompareArgs, Rival};

    fn parse(more: &[&str]) -> Result<CompareArgs, clap::Error> {
        let words = ["compare"].into_iter().chain(more.iter().copied());
        crate::parsed(words)
    }

    #[test]
    fn the_loop_takes_part_as_it_is_fastest() {
        let args = parse(&[]).unwrap();
        let all = [Rival::Floor, Rival::FloorAtLeastOnce, Rival::Copy];
        assert_eq!(args.with, all);
        assert_eq!(args.floor_records_per_transaction, 50_000);
    }

    #[test]
    fn with_itself_means_with_nobody_else() {
        for itself in ["--poison=0.1", "--fault=transient:1"] {
            assert!(parse(&[itself]).is_ok());
            for other in [
                "--with=floor",
                "--other=name=command",
                "--floor-cpu-us=1",
                "--floor-records-per-transaction=1",
            ] {
                let error = parse(&[itself, other]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{error}");
            }
        }
        let both = parse(&["--poison=0.1", "--fault=transient:1"]);
        assert_eq!(both.unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }
}
