//! `cargo xtask fuzz`: property tests of whatever reads input from outside, each for so many minutes with ever new input.
//! What fails is kept by proptest as a regression beside the source, and is tried first from then on.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use orchestrator_testkit::workspace;

use crate::built::built;

/// Each target's crate and test, by what it reads.
const TARGETS: [(&str, &str); 10] = [
    // Variables of the environment.
    (
        "orchestrator-runtime",
        "config::tests::any::any_map_is_read_without_panic_and_every_error_names_its_key",
    ),
    (
        "orchestrator-runtime",
        "config::parse::tests::no_text_panics",
    ),
    // Files of the spill journal.
    (
        "orchestrator-runtime",
        "tracker::spill::format::tests::nothing_at_all_makes_it_panic",
    ),
    (
        "orchestrator-runtime",
        "tracker::spill::format::tests::a_line_with_one_byte_changed_is_never_taken_for_another",
    ),
    (
        "orchestrator-runtime",
        "tracker::spill::crash_tests::random_damage_loses_no_line_that_it_spared",
    ),
    // Records, their headers (trace context, dedup key, what earlier dead letters said), and texts of errors.
    ("orchestrator-core", "dead_letter::tests::it_always_fits"),
    (
        "orchestrator-core",
        "ledger_row::tests::headers_come_back_as_they_were",
    ),
    (
        "orchestrator-core",
        "ledger_row::tests::sizes_are_capped_and_text_is_clean",
    ),
    (
        "orchestrator-core",
        "text::tests::never_longer_than_allowed",
    ),
    // Commit metadata of the group.
    (
        "orchestrator-core",
        "quarantine::tests::any_metadata_is_read_without_panic",
    ),
];

/// How many inputs a run of a target tries: some seconds.
const CASES: u64 = 2_000;

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target is tried
    #[arg(long, default_value_t = 10)]
    minutes: u64,
}

/// As many targets at once as there are CPUs; no other is begun after a finding.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let patience = Duration::from_secs(60 * options.minutes);
    let mut programs = BTreeMap::new();
    for (name, _) in TARGETS {
        if !programs.contains_key(name) {
            let source = format!("{name}/src/lib.rs");
            programs.insert(name, built(&["test", "--workspace", "--lib"], &source)?);
        }
    }
    let targets = Mutex::new(TARGETS.iter());
    let found = AtomicBool::new(false);
    let next = || match found.load(Ordering::Relaxed) {
        true => None,
        false => targets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next(),
    };
    let one_after_the_other = || -> Result<()> {
        while let Some((name, test)) = next() {
            let holds = holds_for(patience, &found, &programs[name], name, test);
            if !matches!(holds, Ok(true)) {
                found.store(true, Ordering::Relaxed);
            }
            holds?;
        }
        Ok(())
    };
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let running: Vec<_> = (0..at_once)
            .map(|_| scope.spawn(one_after_the_other))
            .collect();
        let ended = running.into_iter().map(|it| it.join().expect("no panic"));
        ended.collect::<Result<()>>()
    })?;
    if found.into_inner() {
        return Ok(ExitCode::FAILURE);
    }
    println!("nothing found");
    Ok(ExitCode::SUCCESS)
}

/// Whether nothing is found in a target for so long, or until something is found in another one.
fn holds_for(
    patience: Duration,
    found: &AtomicBool,
    program: &Path,
    name: &str,
    test: &str,
) -> Result<bool> {
    let began = Instant::now();
    let mut cases = 0;
    while cases == 0 || (began.elapsed() < patience && !found.load(Ordering::Relaxed)) {
        if !holds(program, name, test)? {
            println!("FAILED: {test}: see {name}/proptest-regressions");
            return Ok(false);
        }
        cases += CASES;
    }
    let seconds = began.elapsed().as_secs();
    println!("{test}: {cases} cases in {seconds} s");
    Ok(true)
}

/// One run of a target. What it says of a failure is shown.
fn holds(program: &Path, name: &str, test: &str) -> Result<bool> {
    let output = Command::new(program)
        .args(["--exact", test])
        .current_dir(workspace::root().join(name))
        .env("PROPTEST_CASES", CASES.to_string())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("running 1 test"), "there is no test {test}");
    if !output.status.success() {
        println!("{said}");
    }
    Ok(output.status.success())
}
