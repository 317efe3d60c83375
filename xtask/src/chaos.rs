//! `cargo xtask chaos`: the tests that kill processes at named points of their work, or that cut, lose and delay requests
//! by a proxy, again and again, each round with another seed, until the time is up or something is found. A round in which
//! a fault did not bite fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orchestrator_testkit::workspace;

use crate::built::built;

/// What they print of each kill that bit.
const KILLED: &str = "killed at ";
/// What they print of each fault of the proxy: how often it bit, and what it was.
const BITTEN: &str = "bitten ";
/// What they print of a process that was started after a kill: the seconds until the group was ahead of where it had
/// been.
const RESUMED: &str = "resumed after ";

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// No round is begun after so many minutes
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Seed of the first round; each has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is done to the processes
    #[arg(long, value_enum, default_value_t = What::Kills)]
    what: What,
    /// How often each fault of the proxy has to bite in a round
    #[arg(long, default_value_t = 10)]
    faults: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// They are killed at named points of their work
    Kills,
    /// Their requests, or the answers to them, are cut, lost or late
    Requests,
}

impl What {
    /// The tests of it.
    fn tests(self) -> &'static str {
        match self {
            Self::Kills => "kill_points",
            Self::Requests => "proxied",
        }
    }

    /// Whether they tell how soon the next process went on.
    fn starts_again(self) -> bool {
        match self {
            Self::Kills => true,
            Self::Requests => false,
        }
    }
}

/// Round after round; says of each what it did.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let program = build()?;
    let folder = workspace::target_dir().join("chaos");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let began = Instant::now();
    let mut faults = 0;
    let mut resumed = Vec::new();
    for seed in options.seed.. {
        if seed > options.seed && began.elapsed() >= Duration::from_secs(60 * options.minutes) {
            break;
        }
        let started = Instant::now();
        let round = round(&program, options, seed)?;
        faults += round.faults;
        resumed.extend(round.resumed);
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "seed {seed}: {} faults in {seconds:.0} s, {faults} so far",
            round.faults
        );
        if !round.passed {
            let said = folder.join(format!("seed-{seed}.log"));
            fs::write(&said, round.said)
                .with_context(|| format!("cannot write {}", said.display()))?;
            println!(
                "FAILED with seed {seed}: {}; again: cargo xtask chaos --seed {seed} --minutes 0",
                said.display()
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("{faults} faults, nothing lost, doubled or out of order");
    if resumed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    resumed.sort_by(f64::total_cmp);
    let at = |share: f64| resumed[((resumed.len() - 1) as f64 * share) as usize];
    println!(
        "{} restarts: the first commit after {:.1} s in the middle, {:.1} s at the 95th percentile",
        resumed.len(),
        at(0.5),
        at(0.95)
    );
    Ok(ExitCode::SUCCESS)
}

struct Round {
    passed: bool,
    faults: u64,
    resumed: Vec<f64>,
    said: Vec<u8>,
}

fn round(program: &Path, options: &Options, seed: u64) -> Result<Round> {
    let output = Command::new(program)
        // Bugs that are planted are no chaos.
        .args([options.what.tests(), "--skip", "planted", "--nocapture"])
        .current_dir(workspace::root().join("orchestrator-runtime"))
        .env("ORCHESTRATOR_SEED", seed.to_string())
        .env("ORCHESTRATOR_FAULTS", options.faults.to_string())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let told = String::from_utf8_lossy(&output.stdout);
    let times = |line: &str| match line.split_once(BITTEN) {
        Some((_, told)) => told.split(' ').next()?.parse().ok(),
        None => line.contains(KILLED).then_some(1),
    };
    let faults = told.lines().filter_map(times).sum::<u64>();
    let resumed: Vec<f64> = told
        .lines()
        .filter_map(|line| line.split_once(RESUMED)?.1.strip_suffix(" s")?.parse().ok())
        .collect();
    let passed = output.status.success();
    let told_all = faults > 0 && (!resumed.is_empty() || !options.what.starts_again());
    ensure!(!passed || told_all, "nothing was done to the processes");
    let said = [output.stdout, output.stderr].concat();
    Ok(Round {
        passed,
        faults,
        resumed,
        said,
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
