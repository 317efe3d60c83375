//! `load-test compare`: another program against the floor (or against itself, without faults), in turn, on the same
//! orders, each run with a fresh target topic and group. Called by `main`; `measure` times a run, `report` says what came out.
//!
//! A run counts only if its target holds exactly one output per order for a read_committed reader: a
//! program that is fast because it loses or repeats records is an error here, not a result.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;

pub(crate) mod measure;
pub(crate) mod progress;
mod report;

use crate::topics::{self, Contents};
use crate::{Property, fill};
use measure::Measured;
use progress::Progress;
use report::{Report, Who};

/// What is compared, on how much, how often.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Brokers to connect to, host:port[,host:port..]
    #[arg(long)]
    bootstrap_servers: String,
    /// Program to compare, split at blanks, started without a shell. It gets ORCH_BOOTSTRAP_SERVERS,
    /// ORCH_SOURCE_TOPICS, ORCH_TARGET_TOPIC, ORCH_GROUP_ID, ORCH_HTTP_ADDR=off and
    /// ORCH_DB_STRATEGY=NONE; {bootstrap-servers}, {source}, {target}, {group} and {num-records} are
    /// filled in. The process itself must do the work: that of a child it starts is not measured
    #[arg(long)]
    command: String,
    /// Environment of the program, KEY=VALUE (repeatable)
    #[arg(long)]
    env: Vec<Property>,
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
    /// Compare the program not with the floor but with itself: on orders of which some have this x-fault header
    /// (transient:1, say) against orders without
    #[arg(long)]
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
    /// Most records in one transaction of the floor
    #[arg(long, default_value_t = 10_000)]
    records_per_transaction: u64,
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
    let id = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let mut comparison = Comparison {
        args,
        id: format!("compare-{id}"),
        logs: env::temp_dir().join(format!("load-test-{id}")),
        topics: Vec::new(),
        outputs: None,
    };
    fs::create_dir_all(&comparison.logs)?;
    println!("logs of the runs: {}", comparison.logs.display());
    let compared = comparison.compare();
    let deleted = topics::delete(&args.bootstrap_servers, &comparison.topics);
    let report = compared?;
    deleted?;

    print!("{}", report.summary());
    report.check(args.min_throughput_ratio, args.max_cpu_ratio)
}

struct Comparison<'a> {
    args: &'a CompareArgs,
    /// Begins the name of every topic and group, so that comparisons do not meet.
    id: String,
    logs: PathBuf,
    /// Created so far.
    topics: Vec<String>,
    /// What the first run wrote; all others must write the same.
    outputs: Option<Contents>,
}

impl Comparison<'_> {
    fn compare(&mut self) -> Result<Report> {
        let args = self.args;
        let source = self.source("source", None)?;
        let (baseline, faulty) = match &args.fault {
            None => (Who::Floor, source.clone()),
            Some(fault) => (Who::Clean, self.source("faulty", Some(fault))?),
        };
        println!(
            "{} orders of {} bytes in {} partitions\n{}",
            args.num_records,
            args.record_size,
            args.partitions,
            Report::header()
        );

        let mut report = Report::default();
        for round in 0..args.warm_up_rounds + args.rounds {
            // Whoever goes second finds a warmer machine: take turns at that too.
            let mut order = [(baseline, &source), (Who::Program, &faulty)];
            if round % 2 == 1 {
                order.reverse();
            }
            for (who, source) in order {
                let measured = self.measure(who, round, source)?;
                let counted = round >= args.warm_up_rounds;
                println!("{}", Report::row(who, &measured, counted));
                if counted {
                    report.add(who, measured);
                }
            }
        }
        Ok(report)
    }

    /// Fills a topic with the orders.
    fn source(&mut self, name: &str, fault: Option<&String>) -> Result<String> {
        let args = self.args;
        let topic = format!("{}-{name}", self.id);
        self.topics.push(topic.clone());
        fill::run(&fill::FillArgs {
            bootstrap_servers: args.bootstrap_servers.clone(),
            topic: topic.clone(),
            num_records: args.num_records,
            record_size: args.record_size,
            partitions: args.partitions,
            seed: args.seed,
            poison: 0.0,
            fault: fault.cloned(),
            fault_every: args.fault_every,
        })?;
        Ok(topic)
    }

    fn measure(&mut self, who: Who, round: u32, source: &str) -> Result<Measured> {
        let args = self.args;
        let servers = &args.bootstrap_servers;
        let run = format!("{}-{who}-{round}", self.id);
        let (target, group) = (run.clone(), run);
        topics::create(servers, &target, args.partitions)?;
        self.topics.push(target.clone());

        let mut command = match who {
            Who::Floor => self.floor_command(source, &target, &group)?,
            Who::Clean | Who::Program => self.program_command(source, &target, &group)?,
        };
        let measured = measure::run(
            &mut command,
            &self.logs.join(format!("{who}-{round}.log")),
            &Progress::watch(servers, source, &group)?,
            args.num_records,
            Duration::from_secs(args.run_limit_seconds),
        )
        .with_context(|| format!("{who}, round {round}"))?;

        let outputs = topics::contents(servers, &target)?;
        ensure!(
            outputs.records == args.num_records,
            "{who}, round {round}: {} outputs for {} orders",
            outputs.records,
            args.num_records
        );
        if *self.outputs.get_or_insert(outputs) != outputs {
            println!(
                "note: the outputs of {who}, round {round}, differ from those of the first run"
            );
        }
        Ok(measured)
    }

    /// The floor is a child process too, so that both are measured alike.
    fn floor_command(&self, source: &str, target: &str, group: &str) -> Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("floor")
            .args(["--bootstrap-servers", &self.args.bootstrap_servers])
            .args(["--source", source, "--target", target, "--group", group])
            .args(["--num-records", &self.args.num_records.to_string()])
            .args([
                "--records-per-transaction",
                &self.args.records_per_transaction.to_string(),
            ]);
        Ok(command)
    }

    fn program_command(&self, source: &str, target: &str, group: &str) -> Result<Command> {
        let args = self.args;
        let servers = &args.bootstrap_servers;
        let mut words = args.command.split_whitespace().map(|word| {
            word.replace("{bootstrap-servers}", servers)
                .replace("{source}", source)
                .replace("{target}", target)
                .replace("{group}", group)
                .replace("{num-records}", &args.num_records.to_string())
        });
        let mut command = Command::new(words.next().context("--command is empty")?);
        command
            .args(words)
            .env("ORCH_BOOTSTRAP_SERVERS", servers)
            .env("ORCH_SOURCE_TOPICS", source)
            .env("ORCH_TARGET_TOPIC", target)
            .env("ORCH_GROUP_ID", group)
            .env("ORCH_HTTP_ADDR", "off")
            .env("ORCH_DB_STRATEGY", "NONE")
            .env("EXAMPLE_FAULTS", args.fault.is_some().to_string())
            .envs(args.env.iter().map(|set| (&set.key, &set.value)));
        Ok(command)
    }
}
