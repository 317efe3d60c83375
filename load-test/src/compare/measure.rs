//! One timed run of a program: from its start until its group has passed every record. Called by
//! `compare`, for the floor and for the program compared with it alike; knows nothing of either.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::{self, Process};
use super::progress::Progress;

/// How often the group is looked at; more often while waiting for its first commit and near the end,
/// where a look decides the result.
const LOOK: Duration = Duration::from_millis(50);
const CLOSE_LOOK: Duration = Duration::from_millis(5);
/// What is left counts as near the end if, at the rate so far, it takes no longer than this.
const NEAR_END_SECONDS: f64 = 0.15;
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What one run cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Start of the process until the first commit was seen.
    pub(crate) startup_seconds: f64,
    /// Records a second, start-up included.
    pub(crate) throughput: f64,
    /// Records a second from the first commit seen to the last.
    pub(crate) steady_throughput: f64,
    /// CPU seconds of the process per million records.
    pub(crate) cpu_per_million: f64,
    /// CPU seconds of the whole machine, broker and whatever else runs, per million records.
    pub(crate) machine_cpu_per_million: f64,
    pub(crate) peak_rss_bytes: u64,
}

/// Runs the command until the group has passed `total` records, then stops it.
pub(crate) fn run(
    command: &mut Command,
    log: &Path,
    progress: &Progress,
    total: u64,
    limit: Duration,
) -> Result<Measured> {
    let machine_before = process::machine_busy_seconds()?;
    let started = Instant::now();
    let process = Process::start(command, log)?;
    let mut first: Option<(f64, u64)> = None;
    let mut peak_rss_bytes = 0;
    loop {
        let passed = progress.passed()?;
        let seconds = started.elapsed().as_secs_f64();
        peak_rss_bytes = peak_rss_bytes.max(process.peak_rss_bytes().unwrap_or(0));
        if passed > 0 && first.is_none() {
            first = Some((seconds, passed));
        }
        if passed >= total {
            let per_million = 1e6 / total as f64;
            let (startup_seconds, at_first) = first.unwrap_or((seconds, passed));
            let measured = Measured {
                startup_seconds,
                throughput: total as f64 / seconds,
                steady_throughput: (total - at_first.min(total)) as f64
                    / (seconds - startup_seconds),
                cpu_per_million: process.cpu_seconds()? * per_million,
                machine_cpu_per_million: (process::machine_busy_seconds()? - machine_before)
                    * per_million,
                peak_rss_bytes,
            };
            process.stop(STOP_LIMIT)?;
            return Ok(measured);
        }
        if started.elapsed() > limit {
            bail!(process.failure(&format!("only {passed} of {total} records after {limit:?}")));
        }
        // A process that is gone keeps its last commit: look at that once more before giving up.
        if process.has_ended()? && progress.passed()? < total {
            bail!(process.failure(&format!(
                "ended by itself after {passed} of {total} records"
            )));
        }
        thread::sleep(pause(first, passed, total, seconds));
    }
}

fn pause(first: Option<(f64, u64)>, passed: u64, total: u64, seconds: f64) -> Duration {
    let Some((first_seconds, at_first)) = first else {
        return CLOSE_LOOK;
    };
    let left = (total - passed) as f64;
    let rate = (passed - at_first) as f64 / (seconds - first_seconds);
    if left < rate * NEAR_END_SECONDS {
        CLOSE_LOOK
    } else {
        LOOK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_closely_at_the_first_commit_and_near_the_end() {
        assert_eq!(pause(None, 0, 100, 1.0), CLOSE_LOOK);
        assert_eq!(pause(Some((1.0, 10)), 10, 100, 1.0), LOOK);
        assert_eq!(pause(Some((1.0, 10)), 50, 100, 2.0), LOOK);
        assert_eq!(pause(Some((1.0, 10)), 95, 100, 3.0), CLOSE_LOOK);
    }
}
