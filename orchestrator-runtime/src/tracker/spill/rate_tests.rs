//! How fast the journal is: a measurement to run by hand.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::fake_store::{identity, orders};
use super::tests::{failure, open};
use super::*;

/// Prints the rates: `cargo test -p orchestrator-runtime --lib -- --ignored --nocapture spill_rates`.
#[test]
#[ignore = "a measurement"]
fn spill_rates() {
    const BATCH: i64 = 1000;
    const BATCHES: i64 = 300;
    let bare = |offset| match failure(offset) {
        Entry::Failed(row) => Entry::Received(Box::new(LedgerRow {
            error: None,
            payload: None,
            ..*row
        })),
        other => other,
    };
    let ends = |offset| Entry::Passed {
        position: orders().at(offset),
        at_ms: 1,
    };
    let kinds: [(&str, &dyn Fn(i64) -> Entry); 3] = [
        ("received, no payload", &bare),
        ("failed, with error", &failure),
        ("passed", &ends),
    ];
    for (name, make) in kinds {
        let dir = TempDir::new().unwrap();
        let mut journal = Journal::open(dir.path(), &identity(), 1 << 30).unwrap();
        let entries: Vec<_> = (0..BATCH).map(make).collect();
        let total = (BATCH * BATCHES) as f64;
        let start = Instant::now();
        let mut slowest = Duration::ZERO;
        for _ in 0..BATCHES {
            let one = Instant::now();
            assert_eq!(journal.append(&entries).unwrap(), entries.len());
            slowest = slowest.max(one.elapsed());
        }
        let append = start.elapsed();
        let bytes = journal.bytes() as f64 / total;
        drop(journal);
        let start = Instant::now();
        let mut journal = open(&dir);
        journal.adopt().unwrap();
        let adopt = start.elapsed();
        let start = Instant::now();
        loop {
            let batch = journal.peek(BATCH as usize).unwrap();
            if batch.entries.is_empty() {
                break;
            }
            journal.done(batch).unwrap();
        }
        let peek = start.elapsed();
        println!(
            "{name}: {bytes:.0} bytes, append {:.0}/s (slowest {slowest:?} for {BATCH}), peek+done {:.0}/s, open {adopt:?}",
            total / append.as_secs_f64(),
            total / peek.as_secs_f64(),
        );
    }
}
