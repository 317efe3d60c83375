//! One timed run of a program: from its start until its group has passed every record, and its end. Called by `compare`,
//! `ledger` and `sweep`, for every program alike; knows nothing of any.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use orchestrator_testkit::process::{Process, Program, Signal};
use orchestrator_testkit::usage;

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
    /// CPU seconds of the program, with all processes it started, per million records.
    pub(crate) cpu_per_million: f64,
    /// CPU seconds of the broker per million records; of the whole machine, if the broker is not ours.
    pub(crate) broker_cpu_per_million: f64,
    pub(crate) peak_rss_bytes: u64,
    /// From SIGTERM, or from its last commit if it ends by itself, to its end.
    pub(crate) exit_seconds: f64,
}

/// Runs the program until the group has passed `total` records, then stops it.
pub(crate) fn run(
    program: &Program,
    progress: &Progress,
    broker: Option<u32>,
    total: u64,
    limit: Duration,
) -> Result<Measured> {
    let broker_cpu = || match broker {
        Some(pid) => Ok(usage::of_tree(pid).unwrap_or_default().cpu_seconds),
        None => usage::machine_busy_seconds().context("/proc/stat (measuring needs Linux)"),
    };
    let broker_before = broker_cpu()?;
    let started = Instant::now();
    let process = program.start()?;
    let mut first: Option<(f64, u64)> = None;
    let mut usage = usage::Usage::default();
    loop {
        let passed = progress.passed()?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some(now) = usage::of_tree(process.pid()) {
            usage = usage::Usage {
                peak_rss_bytes: now.peak_rss_bytes.max(usage.peak_rss_bytes),
                ..now
            };
        }
        if passed > 0 && first.is_none() {
            first = Some((seconds, passed));
        }
        if passed >= total {
            let broker_cpu = broker_cpu()? - broker_before;
            let exit_seconds = stop(&process)?;
            let per_million = 1e6 / total as f64;
            let (startup_seconds, at_first) = first.unwrap_or((seconds, passed));
            return Ok(Measured {
                startup_seconds,
                throughput: total as f64 / seconds,
                steady_throughput: (total - at_first.min(total)) as f64
                    / (seconds - startup_seconds),
                cpu_per_million: usage.cpu_seconds * per_million,
                broker_cpu_per_million: broker_cpu * per_million,
                peak_rss_bytes: usage.peak_rss_bytes,
                exit_seconds,
            });
        }
        if started.elapsed() > limit {
            bail!(
                "only {passed} of {total} records after {limit:?}; the program's last lines:\n{}",
                process.tail()
            );
        }
        // A process that is gone keeps its last commit: look at that once more before giving up.
        if let Some(status) = process.status()?
            && progress.passed()? < total
        {
            bail!(
                "ended by itself ({status}) after {passed} of {total} records; its last lines:\n{}",
                process.tail()
            );
        }
        thread::sleep(pause(first, passed, total, seconds));
    }
}

/// Ends it, and says how long that took.
fn stop(process: &Process) -> Result<f64> {
    let asked = Instant::now();
    if process.status()?.is_none() {
        process
            .signal(Signal::Term)
            .or_else(|error| match process.status() {
                Ok(Some(_)) => Ok(()),
                _ => Err(error),
            })?;
    }
    while process.status()?.is_none() {
        if asked.elapsed() > STOP_LIMIT {
            bail!(
                "did not end within {STOP_LIMIT:?} of SIGTERM; its last lines:\n{}",
                process.tail()
            );
        }
        thread::sleep(CLOSE_LOOK);
    }
    Ok(asked.elapsed().as_secs_f64())
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
