//! `cargo xtask chaos`: the tests of faults again and again, each round with another seed, until the time is up or something
//! is found. A round in which a fault did not bite fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use orchestrator_testkit::workspace;

use crate::built::built;

/// What they print of each fault: how often it bit, and what it was.
const BITTEN: &str = "bitten ";
/// What they print of the end of a fault: the seconds until records were passed again.
const RESUMED: &str = "resumed after ";
/// So many seconds after it has started again one that was killed passes records, 19 times of 20.
const RESUMED_WITHIN: f64 = 5.0;
/// What they print of a try in which the fault could not do what it was to do, so that it was made again.
const VOID: &str = "void: ";
/// What they print of anything else that was measured.
const MEASURED: &str = "measured: ";
/// What they print of the worst five seconds: the percentage of the load that was passed.
const SLOWEST: &str = "slowest ";

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// No round is begun after so many minutes; a soak lasts so long
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Seed of the first round; each has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What happens
    #[arg(long, value_enum, default_value_t = What::Points)]
    what: What,
    /// How often each fault has to bite in a round; without it a few times
    #[arg(long)]
    faults: Option<u64>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Processes are killed at named points of their work
    Points,
    /// They are killed at random times
    Kills,
    /// They stand still past their transaction and session time-outs
    Freezes,
    /// Members of the group come, leave and die
    Rebalances,
    /// Requests, or the answers to them, are cut, lost or late
    Requests,
    /// Brokers are killed, ended, and silent for a while
    Brokers,
    /// The wall clock is stepped forward and back
    Clocks,
    /// A PostgreSQL is stopped, paused, locked, slow, read-only or full, connections are lost in COMMIT, the disk of the
    /// spill journal is full
    Databases,
    /// Topics are deleted and made anew, or get more partitions
    Topics,
    /// Records cannot be decoded, transformed or written, or not at once
    Records,
    /// Records kill the process that works on them
    Quarantine,
    /// Kills, freezes, twins and rebalances of one to four processes, as the seed has it
    Storms,
    /// All of that, and trouble with requests, the broker, the database, descriptors and records: one round of so many
    /// minutes, with an auditor at its heels
    Soak,
}

impl What {
    /// As it is given.
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// The tests of it.
    fn tests(self) -> &'static str {
        match self {
            Self::Points => "faults::kill_points",
            Self::Kills => "faults::killed",
            Self::Freezes => "faults::zombie",
            Self::Rebalances => "faults::members",
            Self::Requests => "faults::proxied",
            Self::Brokers => "faults::broker",
            Self::Clocks => "faults::clock",
            Self::Databases => "ledger::faults",
            Self::Topics => "faults::topics",
            Self::Records => "faults::records",
            Self::Quarantine => "faults::quarantine",
            Self::Storms => "faults::storm",
            Self::Soak => "faults::soak",
        }
    }

    /// Whether a round is as long as it is told to be, and the only one.
    fn lasts(self) -> bool {
        matches!(self, Self::Soak)
    }

    /// Whether processes are killed, and start again under the same name.
    fn is_killed(self) -> bool {
        matches!(self, Self::Points | Self::Kills)
    }

    /// Whether they tell how soon records were passed again.
    fn resumes(self) -> bool {
        matches!(self, Self::Points | Self::Kills | Self::Brokers)
    }
}

/// Round after round; says of each what it did.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let program = build()?;
    let folder = workspace::target_dir().join("chaos");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let began = Instant::now();
    let mut bitten = BTreeMap::<String, u64>::new();
    let (mut resumed, mut slowest, mut measured) = (Vec::new(), Vec::new(), Vec::new());
    let mut void = 0;
    for seed in options.seed.. {
        let over =
            options.what.lasts() || began.elapsed() >= Duration::from_secs(60 * options.minutes);
        if seed > options.seed && over {
            break;
        }
        let started = Instant::now();
        let log = folder.join(format!("{}-{seed}.log", options.what.name()));
        println!("seed {seed}: {}", log.display());
        let round = round(&program, options, seed, &log)?;
        let here: u64 = round.bitten.iter().map(|(times, _)| times).sum();
        for (times, what) in round.bitten {
            *bitten.entry(what).or_default() += times;
        }
        resumed.extend(round.resumed);
        slowest.extend(round.slowest);
        measured.extend(round.measured);
        void += round.void;
        let seconds = started.elapsed().as_secs_f64();
        let faults: u64 = bitten.values().sum();
        println!("seed {seed}: {here} faults in {seconds:.0} s, {faults} so far");
        if !round.passed {
            println!(
                "FAILED with seed {seed}: {}; again: cargo xtask chaos --what {} --seed {seed} --minutes {}{}",
                log.display(),
                options.what.name(),
                // Of a soak that is its length.
                if options.what.lasts() {
                    options.minutes
                } else {
                    0
                },
                options
                    .faults
                    .map_or(String::new(), |faults| format!(" --faults {faults}"))
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    for (what, times) in &bitten {
        println!("{times:6} {what}");
    }
    let faults: u64 = bitten.values().sum();
    println!("{faults:6} faults, nothing lost, doubled or out of order");
    if void > 0 {
        println!("{void:6} void, and made again");
    }
    if !resumed.is_empty() {
        resumed.sort_by(f64::total_cmp);
        let at = |share: f64| resumed[((resumed.len() - 1) as f64 * share) as usize];
        println!(
            "{} times passed on: after {:.1} s in the middle, {:.1} s at the 95th percentile, {:.1} s at the most",
            resumed.len(),
            at(0.5),
            at(0.95),
            at(1.0)
        );
        if options.what.is_killed() && at(0.95) > RESUMED_WITHIN {
            println!("FAILED: that is more than {RESUMED_WITHIN} s");
            return Ok(ExitCode::FAILURE);
        }
    }
    if let Some(slowest) = slowest.iter().min() {
        println!("in the worst five seconds {slowest} % of the load were passed");
    }
    for measured in measured {
        println!("{measured}");
    }
    Ok(ExitCode::SUCCESS)
}

struct Round {
    passed: bool,
    bitten: Vec<(u64, String)>,
    resumed: Vec<f64>,
    slowest: Vec<i64>,
    measured: Vec<String>,
    void: usize,
}

/// All that is said goes to a file: a round may last.
fn round(program: &Path, options: &Options, seed: u64, log: &Path) -> Result<Round> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let both = file.try_clone().context("cannot share a log")?;
    let mut command = Command::new(program);
    if let Some(faults) = options.faults {
        command.env("ORCHESTRATOR_FAULTS", faults.to_string());
    }
    if options.what.lasts() {
        command.env("ORCHESTRATOR_MINUTES", options.minutes.to_string());
    }
    let status = command
        // Bugs that are planted are no chaos.
        .args([options.what.tests(), "--skip", "planted", "--nocapture"])
        .current_dir(workspace::root().join("orchestrator-runtime"))
        .env("ORCHESTRATOR_SEED", seed.to_string())
        .stdout(file)
        .stderr(both)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let told = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let told = String::from_utf8_lossy(&told);
    // Beside what else the harness of the tests prints on the line.
    let after = |what: &str| -> Vec<String> {
        let told = told.lines().filter_map(|line| line.split_once(what));
        told.map(|(_, after)| after.to_owned()).collect()
    };
    let bitten = after(BITTEN).into_iter().filter_map(|told| {
        let (times, what) = told.split_once(" times: ")?;
        Some((times.parse().ok()?, what.to_owned()))
    });
    let bitten: Vec<_> = bitten.collect();
    let number = |told: &str| -> Option<f64> { told.split(' ').next()?.parse().ok() };
    let resumed = after(RESUMED);
    let resumed: Vec<_> = resumed.iter().filter_map(|told| number(told)).collect();
    let slowest = after(SLOWEST);
    let slowest = slowest.iter().filter_map(|told| number(told));
    let slowest: Vec<_> = slowest.map(|percent| percent as i64).collect();
    let passed = status.success();
    let told_all = !bitten.is_empty() && (!resumed.is_empty() || !options.what.resumes());
    ensure!(!passed || told_all, "nothing was done to the processes");
    Ok(Round {
        passed,
        bitten,
        resumed,
        slowest,
        measured: after(MEASURED),
        void: after(VOID).len(),
    })
}

fn build() -> Result<PathBuf> {
    built(
        &[
            "test",
            "--workspace",
            "--features",
            "orchestrator-runtime/test-faults",
            "--test",
            "it",
        ],
        "orchestrator-runtime/tests/it/main.rs",
    )
}
