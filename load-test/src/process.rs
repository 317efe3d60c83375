//! A child process under measurement: start, look at its CPU time and memory, stop. Used by `measure`.
//! Reads Linux's /proc, so that every program is measured in the same way and none has to cooperate.
//! Must never leave a child behind: a dropped child is killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// /proc counts CPU time in these; USER_HZ is 100 on every Linux that Rust's std supports.
const TICKS_PER_SECOND: f64 = 100.0;
const EXIT_POLL: Duration = Duration::from_millis(10);
const LOG_LINES_SHOWN: usize = 15;

/// The running child; its output goes to a log file.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("log file {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// User and system time of all its threads so far. Also of a child that has exited but was not
    /// waited for.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        // utime and stime, fields 14 and 15 of proc_pid_stat(5).
        let stat = self.stat_from_state()?;
        let ticks = stat.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
        Ok(ticks / TICKS_PER_SECOND)
    }

    /// Whether it has ended, without reaping it: its CPU time stays readable.
    pub(crate) fn has_ended(&self) -> Result<bool> {
        Ok(self.stat_from_state()?.starts_with('Z'))
    }

    /// /proc/pid/stat from field 3 on; the name before it may hold blanks and parentheses.
    fn stat_from_state(&self) -> Result<String> {
        let stat = self.proc_file("stat")?;
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        Ok(after_name.trim_start().to_owned())
    }

    /// Most memory it ever had resident; `None` once it has exited.
    pub(crate) fn peak_rss_bytes(&self) -> Option<u64> {
        let status = self.proc_file("status").ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("{path} (measuring needs Linux)"))
    }

    /// An error that shows the end of the child's log.
    pub(crate) fn failure(&self, what: &str) -> anyhow::Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
        anyhow::anyhow!("{what}; end of {}:\n{tail}", self.log.display())
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    pub(crate) fn stop(&self, limit: Duration) -> Result<()> {
        let pid = self.child.id().to_string();
        // std can only kill; a failure means that it is already gone.
        Command::new("kill")
            .args(["-TERM", &pid])
            .stderr(Stdio::null())
            .status()
            .context("kill")?;
        let started = Instant::now();
        while !self.has_ended()? {
            if started.elapsed() > limit {
                bail!(self.failure(&format!("did not end within {limit:?} of SIGTERM")));
            }
            thread::sleep(EXIT_POLL);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Seconds that all CPUs of the machine were busy since it started.
pub(crate) fn machine_busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat (measuring needs Linux)")?;
    let ticks: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; the guest times after them are part of user.
    let busy = ticks.iter().take(8).sum::<f64>() - ticks.iter().skip(3).take(2).sum::<f64>();
    Ok(busy / TICKS_PER_SECOND)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sees_cpu_time_and_memory_and_stops_what_it_started() {
        let log = std::env::temp_dir().join(format!("load-test-process-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        let busy = Process::start(&mut command, &log).unwrap();
        let started = Instant::now();
        while busy.cpu_seconds().unwrap() < 0.05 {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "no CPU time seen"
            );
            thread::yield_now();
        }
        assert!(busy.peak_rss_bytes().unwrap() > 100_000);
        assert!(!busy.has_ended().unwrap());
        busy.stop(Duration::from_secs(5)).unwrap();
        assert!(busy.has_ended().unwrap());
        assert!(machine_busy_seconds().unwrap() > 0.0);
        fs::remove_file(log).unwrap();
    }
}
