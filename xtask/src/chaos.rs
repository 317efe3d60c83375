//! `cargo xtask chaos`: the tests that kill processes at named points of their work, again and again, each round with
//! another seed, until the time is up or something is found. A round in which a kill did not bite fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orchestrator_testkit::workspace;

use crate::built::built;

/// The tests that take a seed.
const TESTS: &str = "kill_points";
/// What they print of each kill that bit.
const KILLED: &str = "killed at ";
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
}

/// Round after round; says of each what it did.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let program = build()?;
    let folder = workspace::target_dir().join("chaos");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let began = Instant::now();
    let mut kills = 0;
    let mut resumed = Vec::new();
    for seed in options.seed.. {
        if seed > options.seed && began.elapsed() >= Duration::from_secs(60 * options.minutes) {
            break;
        }
        let started = Instant::now();
        let round = round(&program, seed)?;
        kills += round.kills;
        resumed.extend(round.resumed);
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "seed {seed}: {} kills in {seconds:.0} s, {kills} so far",
            round.kills
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
    resumed.sort_by(f64::total_cmp);
    let at = |share: f64| resumed[((resumed.len() - 1) as f64 * share) as usize];
    println!("{kills} kills, nothing lost, doubled or out of order");
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
    kills: usize,
    resumed: Vec<f64>,
    said: Vec<u8>,
}

fn round(program: &Path, seed: u64) -> Result<Round> {
    let output = Command::new(program)
        .args([TESTS, "--nocapture"])
        .current_dir(workspace::root().join("orchestrator-runtime"))
        .env("ORCHESTRATOR_SEED", seed.to_string())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let told = String::from_utf8_lossy(&output.stdout);
    let kills = told.lines().filter(|line| line.contains(KILLED)).count();
    let resumed: Vec<f64> = told
        .lines()
        .filter_map(|line| line.split_once(RESUMED)?.1.strip_suffix(" s")?.parse().ok())
        .collect();
    let passed = output.status.success();
    ensure!(
        !passed || (kills > 0 && !resumed.is_empty()),
        "the tests killed nothing"
    );
    let said = [output.stdout, output.stderr].concat();
    Ok(Round {
        passed,
        kills,
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
