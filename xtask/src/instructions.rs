//! `cargo xtask instructions`: what a record costs on the hot path, in instructions counted by callgrind, against the
//! committed baseline. Unlike time it is the same on a busy machine.
//!
//! Counted twice, for few and for many records: the difference leaves out what starting costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use orchestrator_testkit::workspace;

use crate::built::built;

const BASELINE: &str = "orchestrator-runtime/benches/instructions.baseline";
const FEW: u64 = 16_000;
const MANY: u64 = 80_000;
/// Counts of one program differ by less than half a percent.
const TOLERANCE_PERCENT: f64 = 3.0;

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Make what is counted now the baseline
    #[arg(long)]
    bless: bool,
}

/// Counts, compares, and says so.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let found = Command::new("valgrind").arg("--version").output();
    ensure!(
        found.is_ok_and(|output| output.status.success()),
        "valgrind is not installed (Debian: apt-get install valgrind)"
    );
    let program = build()?;
    let per_record = (count(&program, MANY)? - count(&program, FEW)?) as f64 / (MANY - FEW) as f64;
    let file = workspace::root().join(BASELINE);
    if options.bless {
        fs::write(&file, format!("{per_record:.0}\n"))?;
        println!("{per_record:.0} instructions a record, written to {BASELINE}");
        return Ok(ExitCode::SUCCESS);
    }
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {BASELINE}"))?;
    let baseline: f64 = text
        .trim()
        .parse()
        .with_context(|| format!("{BASELINE} holds no number"))?;
    let percent = (per_record / baseline - 1.0) * 100.0;
    println!("{per_record:.0} instructions a record, baseline {baseline:.0} ({percent:+.1} %)");
    if percent.abs() <= TOLERANCE_PERCENT {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "more than {TOLERANCE_PERCENT} % from the baseline: find out why, or run `cargo xtask instructions --bless`"
    );
    Ok(ExitCode::FAILURE)
}

/// Builds the bench; gives its path.
fn build() -> Result<PathBuf> {
    built(
        &[
            "bench",
            "--package",
            "orchestrator-runtime",
            "--bench",
            "instructions",
        ],
        "orchestrator-runtime/benches/instructions.rs",
    )
}

fn count(program: &Path, records: u64) -> Result<i64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg(records.to_string())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() => Ok(count),
        _ => bail!("callgrind failed with {}: {said}", output.status),
    }
}
