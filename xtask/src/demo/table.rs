//! What the demo says at its end. Called by `mod.rs`; prints, and decides nothing.

use std::path::Path;
use std::time::Duration;

use indicatif::HumanCount;

use super::app::App;
use super::check::Figures;
use super::ledger::Row;
use super::topics::Topics;

const ROWS_SHOWN: usize = 5;
const REASON_CHARS: usize = 70;

/// How the app ran.
pub(super) struct Run {
    /// From joining the group to the last commit seen.
    pub(super) took: Duration,
    pub(super) profile: &'static str,
    pub(super) peak_memory_bytes: Option<u64>,
}

pub(super) fn print(figures: &Figures, rows: &[Row], run: &Run) {
    let (took, profile) = (run.took, run.profile);
    let rate = (figures.read as f64 / took.as_secs_f64()) as u64;
    let memory = run.peak_memory_bytes.map(|bytes| bytes / 1_000_000);
    let count = |n: usize| HumanCount(n as u64).to_string();
    let lines = [
        (
            "read",
            count(figures.read),
            "orders in the source topic".to_owned(),
        ),
        (
            "enriched",
            count(figures.enriched),
            "outputs, as a read_committed reader sees them".to_owned(),
        ),
        (
            "dead-lettered",
            count(figures.dead_lettered),
            "in the same transactions".to_owned(),
        ),
        (
            "rows in the ledger",
            count(figures.ledger_rows),
            "FAILED, one for each dead letter".to_owned(),
        ),
        (
            "records per second",
            HumanCount(rate).to_string(),
            format!(
                "{:.2} s from joining the group to the last commit seen; {profile} build",
                took.as_secs_f64()
            ),
        ),
        (
            "peak memory",
            memory.map_or("-".to_owned(), |megabytes| format!("{megabytes} MB")),
            "of the app".to_owned(),
        ),
    ];
    println!();
    for (name, value, about) in lines {
        println!("  {name:<20}{value:>12}   {about}");
    }
    println!("\n  the first rows of the ledger\n  partition  offset  attempts  reason");
    for row in rows.iter().take(ROWS_SHOWN) {
        let reason: String = row.error.chars().take(REASON_CHARS).collect();
        println!(
            "  {:>9}  {:>6}  {:>8}  {reason}",
            row.partition, row.offset, row.attempts
        );
    }
    println!();
}

pub(super) fn print_what_next(ledger: &Path) {
    println!("all counts are right. What to try next:");
    println!(
        "  cargo xtask demo --keep                            look at health, metrics and topics while it runs"
    );
    println!("  cargo xtask demo --release --num-records 1000000   figures of an optimized build");
    println!(
        "  sqlite3 {} 'SELECT * FROM event_failures'   the ledger of this demo",
        ledger.display()
    );
    println!("  README.md: a program of your own in 30 lines");
}

pub(super) fn print_kept(app: &App, bootstrap: &str, topics: &Topics, ledger: &Path) {
    if let Some(addr) = app.http() {
        println!("health    curl http://{addr}/health");
        println!("metrics   curl http://{addr}/metrics");
    }
    println!("ledger    {}", ledger.display());
    println!("app.log   {}", ledger.with_file_name("app.log").display());
    println!("Kafka     {bootstrap}, group {}", topics.group);
    println!("source    {}", topics.source);
    println!("target    {}", topics.target);
    println!("DLQ       {}", topics.dlq);
    println!("all of it runs until Ctrl-C");
}
