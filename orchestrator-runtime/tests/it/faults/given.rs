//! What `cargo xtask chaos` asks of a test, and reads of what it prints.

use std::env;
use std::time::Duration;

/// Seeds whatever is chosen at random: what is given, or always the same.
pub(crate) fn seed() -> u64 {
    let seed = seed_or(1);
    println!("seed {seed}");
    seed
}

/// What is given as a seed, or this.
pub(crate) fn seed_or(default: u64) -> u64 {
    let given = env::var("ORCHESTRATOR_SEED").ok();
    given.map_or(default, |seed| seed.parse().unwrap())
}

/// How often each fault has to bite: so often, unless more is asked for.
pub(crate) fn times(few: u64) -> u64 {
    let given = env::var("ORCHESTRATOR_FAULTS").ok();
    given.map_or(few, |times| times.parse().unwrap())
}

/// A fault has bitten so often.
pub(crate) fn bitten(times: u64, what: &str) {
    println!("bitten {times} times: {what}");
}

/// How long it took until records were passed again.
pub(crate) fn resumed(after: Duration) {
    println!("resumed after {:.1} s", after.as_secs_f64());
}

/// How much of its load the group has passed in its worst five seconds.
pub(crate) fn slowest(percent: i64) {
    println!("slowest {percent} %");
}

/// For how long something goes on; none if it need not.
pub(crate) fn time() -> Option<Duration> {
    let given = env::var("ORCHESTRATOR_MINUTES").ok()?;
    Some(Duration::from_secs(60 * given.parse::<u64>().unwrap()))
}

/// Something that was measured, or counted.
pub(crate) fn measured(what: &str) {
    println!("measured: {what}");
}
