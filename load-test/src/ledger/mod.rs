//! `load-test ledger`: what the failure ledger costs. The program under each strategy and database, in turn with NONE
//! and with this machine's raw rate of the same statements, on the same orders, in one run. Called by `main`.
//!
//! A run counts only if every order has its output and every row is there that the strategy promises.

mod raw;
mod scenario;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
use orchestrator_testkit::process::Program;

use crate::compare::measure::{self, Measured};
use crate::compare::progress::Progress;
use crate::{fill, topics};
use scenario::{Database, SCENARIOS, Scenario};

/// What is measured, on how much, how often.
#[derive(Args, Debug)]
pub(crate) struct LedgerArgs {
    /// Brokers to connect to, host:port[,host:port..]
    #[arg(long)]
    bootstrap_servers: String,
    /// Program to measure, built with the features `sqlite` and `postgres`
    #[arg(long, default_value = "target/release/example-app")]
    command: PathBuf,
    /// Orders in the source topic
    #[arg(long, default_value_t = 500_000)]
    num_records: u64,
    /// Bytes of one order
    #[arg(long, default_value_t = 316)]
    record_size: usize,
    /// Partitions of source and target
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// Measured rounds of one run each, after one that is not counted
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Measure only scenarios whose names contain this (and what they are compared with)
    #[arg(long)]
    only: Option<String>,
    /// A setting of the PostgreSQL server, key=value (repeatable); its defaults otherwise
    #[arg(long)]
    postgres: Vec<crate::Property>,
    /// Print the scenarios and end
    #[arg(long)]
    list: bool,
}

/// Prints every run as it ends, and the ratios at the end.
pub(crate) fn run(args: &LedgerArgs) -> Result<()> {
    if args.list {
        for scenario in SCENARIOS {
            println!("{:<28}{}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    let id = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let mut options = PostgresOptions::new().own();
    for setting in &args.postgres {
        options = options.setting(&*setting.key, &*setting.value);
    }
    let mut bench = Bench {
        args,
        id: format!("ledger-{id}"),
        folder: env::temp_dir().join(format!("load-test-{id}")),
        topics: Vec::new(),
        postgres: Postgres::start(options)?,
        results: BTreeMap::new(),
    };
    fs::create_dir_all(&bench.folder)?;
    println!("logs of the runs: {}", bench.folder.display());
    let measured = bench.measure_all();
    let deleted = topics::delete(&args.bootstrap_servers, &bench.topics);
    // What was measured until something went wrong is worth reading, too.
    bench.print_ratios();
    measured?;
    deleted
}

struct Bench<'a> {
    args: &'a LedgerArgs,
    /// Begins the name of every topic and group.
    id: String,
    folder: PathBuf,
    topics: Vec<String>,
    postgres: Postgres,
    /// Records a second of each counted run.
    results: BTreeMap<&'static str, Vec<f64>>,
}

impl Bench<'_> {
    fn measure_all(&mut self) -> Result<()> {
        let only = self.args.only.as_deref().unwrap_or_default();
        let wanted: Vec<&Scenario> = SCENARIOS
            .iter()
            .filter(|scenario| scenario.name.contains(only))
            .collect();
        let is_baseline = |name: &str| wanted.iter().any(|one| one.against.contains(&name));
        let chosen: Vec<&Scenario> = SCENARIOS
            .iter()
            .filter(|scenario| scenario.name.contains(only) || is_baseline(scenario.name))
            .collect();
        let all = self.args.num_records;
        let clean = self.source("clean", all, None)?;
        let faulty = self.source("faulty", all, Some("permanent"))?;
        let few = self.source("few", all.min(scenario::FEW_RECORDS), None)?;
        for round in 0..=self.args.rounds {
            let mut order = chosen.clone();
            if round % 2 == 1 {
                order.reverse();
            }
            for scenario in order {
                let source = match scenario {
                    Scenario { few: true, .. } => &few,
                    Scenario { faulty: true, .. } => &faulty,
                    _ => &clean,
                };
                let rate = self
                    .measure(scenario, round, source)
                    .with_context(|| format!("{}, round {round}", scenario.name))?;
                let counted = if round == 0 { "  (warm-up)" } else { "" };
                println!("{:<28}{rate:>10.0} records/s{counted}", scenario.name);
                if round > 0 {
                    self.results.entry(scenario.name).or_default().push(rate);
                }
            }
        }
        Ok(())
    }

    fn source(&mut self, name: &str, num_records: u64, fault: Option<&str>) -> Result<String> {
        let args = self.args;
        let topic = format!("{}-{name}", self.id);
        self.topics.push(topic.clone());
        fill::run(&fill::FillArgs {
            bootstrap_servers: args.bootstrap_servers.clone(),
            topic: topic.clone(),
            num_records,
            record_size: args.record_size,
            partitions: args.partitions,
            seed: 1,
            poison: 0.0,
            fault: fault.map(str::to_owned),
            fault_every: scenario::FAULT_EVERY,
        })?;
        Ok(topic)
    }

    fn measure(&mut self, scenario: &Scenario, round: u32, source: &str) -> Result<f64> {
        let url = match scenario.database {
            Database::None => None,
            Database::Sqlite => {
                let file = self.folder.join(format!("{}-{round}.db", scenario.name));
                Some(format!("sqlite://{}", file.display()))
            }
            Database::Postgres => Some(self.postgres.create_database("ledger")?),
            // Nobody listens there: connections are refused at once, as by a server that is down.
            Database::Down => Some("postgres://ledger:none@127.0.0.1:1/ledger".to_owned()),
        };
        let rate = match (scenario.raw, &url) {
            (Some(kind), Some(url)) => raw::rate(kind, url, self.records(scenario))?,
            _ => {
                let measured = self.run_program(scenario, round, source, url.as_deref())?;
                if scenario.database == Database::Postgres
                    && let Some(url) = &url
                {
                    self.check_rows(scenario, url)?;
                }
                measured.throughput
            }
        };
        self.forget(scenario, url.as_deref().unwrap_or_default())?;
        Ok(rate)
    }

    /// Removes the rows of a run that went well: there are millions.
    fn forget(&self, scenario: &Scenario, url: &str) -> Result<()> {
        match scenario.database {
            Database::None | Database::Down => {}
            Database::Sqlite => {
                let file = url.trim_start_matches("sqlite://");
                for suffix in ["", "-wal", "-shm"] {
                    match fs::remove_file(format!("{file}{suffix}")) {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            return Err(error.into());
                        }
                        _ => {}
                    }
                }
            }
            Database::Postgres => {
                let database = url.rsplit('/').next().unwrap_or_default();
                self.postgres.sql(
                    "postgres",
                    &format!("DROP DATABASE \"{database}\" WITH (FORCE)"),
                )?;
            }
        }
        Ok(())
    }

    fn run_program(
        &mut self,
        scenario: &Scenario,
        round: u32,
        source: &str,
        url: Option<&str>,
    ) -> Result<Measured> {
        let args = self.args;
        let servers = &args.bootstrap_servers;
        let run = format!("{}-{}-{round}", self.id, scenario.name);
        topics::create(servers, &run, args.partitions)?;
        self.topics.push(run.clone());
        let mut program = Program::new(&args.command)
            .log(self.folder.join(format!("{}-{round}.log", scenario.name)))
            .env("ORCH_BOOTSTRAP_SERVERS", servers)
            .env("ORCH_SOURCE_TOPICS", source)
            .env("ORCH_TARGET_TOPIC", &run)
            .env("ORCH_GROUP_ID", &run)
            .env("ORCH_HTTP_ADDR", "off")
            .env("EXAMPLE_FAULTS", scenario.faulty.to_string())
            .envs(scenario.env.iter().copied());
        if let Some(url) = url {
            program = program.env("ORCH_DB_URL", url);
        }
        let measured = measure::run(
            &program,
            &Progress::watch(servers, source, &run)?,
            None,
            self.records(scenario),
            Duration::from_secs(600),
        )?;
        let outputs = topics::contents(servers, &run)?.records;
        let expected = self.records(scenario) - self.failures(scenario);
        ensure!(
            outputs == expected,
            "{outputs} outputs, {expected} expected"
        );
        Ok(measured)
    }

    fn records(&self, scenario: &Scenario) -> u64 {
        let all = self.args.num_records;
        if scenario.few {
            all.min(scenario::FEW_RECORDS)
        } else {
            all
        }
    }

    fn failures(&self, scenario: &Scenario) -> u64 {
        if scenario.faulty {
            self.records(scenario).div_ceil(scenario::FAULT_EVERY)
        } else {
            0
        }
    }

    /// Every row that the strategy promises is there once the program has drained.
    fn check_rows(&self, scenario: &Scenario, url: &str) -> Result<()> {
        let database = url.rsplit('/').next().unwrap_or_default();
        let counted = self.postgres.sql(
            database,
            "SELECT status, count(*) FROM event_failures WHERE passed_at IS NOT NULL GROUP BY 1 ORDER BY 1",
        )?;
        let failed = self.failures(scenario);
        let mut expected = Vec::new();
        if failed > 0 {
            expected.push(format!("FAILED|{failed}"));
        }
        if scenario.rows_of_successes {
            expected.push(format!("SUCCESS|{}", self.records(scenario) - failed));
        }
        ensure!(
            counted.trim() == expected.join("\n"),
            "the ledger has {counted:?}, expected {expected:?}"
        );
        Ok(())
    }

    fn print_ratios(&self) {
        println!("\n{:<28}{:>12}{:>9}", "median", "records/s", "spread");
        for (name, rates) in &self.results {
            let (median, spread) = summary(rates);
            println!("{name:<28}{median:>12.0}{:>8.0}%", spread * 100.0);
        }
        println!();
        for scenario in SCENARIOS {
            let Some(rates) = self.results.get(scenario.name) else {
                continue;
            };
            for against in scenario.against {
                if let Some(baseline) = self.results.get(against) {
                    let ratio = summary(rates).0 / summary(baseline).0;
                    println!("{:<28}{ratio:>7.3} of {against}", scenario.name);
                }
            }
        }
    }
}

/// Median, and the spread as a share of it.
fn summary(rates: &[f64]) -> (f64, f64) {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    let (Some(lowest), Some(highest)) = (rates.first(), rates.last()) else {
        return (f64::NAN, f64::NAN);
    };
    let median = (rates[(rates.len() - 1) / 2] + rates[rates.len() / 2]) / 2.0;
    (median, (highest - lowest) / median)
}
