//! What a process costs, with all the processes it has started: CPU time, memory, threads, descriptors. Reads Linux's
//! /proc, so that every program is measured in the same way and none has to cooperate. Only looks, never signals.

use std::collections::HashMap;
use std::{fs, io};

/// /proc counts CPU time in these; USER_HZ is 100 on every Linux that Rust's std supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process tree has used so far, and has now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all threads, those of ended children that were waited for included.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// The sum of what each process had at its own peak.
    pub peak_rss_bytes: u64,
    /// Threads of all of them.
    pub threads: u64,
    /// Open descriptors of all of them.
    pub descriptors: u64,
}

/// Usage of a process and its descendants; none once it has ended (as a zombie it still has its CPU time).
pub fn of_tree(root: u32) -> Option<Usage> {
    let mut usage = of_process(root)?;
    let children = children();
    let mut waiting = children.get(&root).cloned().unwrap_or_default();
    while let Some(pid) = waiting.pop() {
        if let Some(more) = of_process(pid) {
            usage.cpu_seconds += more.cpu_seconds;
            usage.rss_bytes += more.rss_bytes;
            usage.peak_rss_bytes += more.peak_rss_bytes;
            usage.threads += more.threads;
            usage.descriptors += more.descriptors;
        }
        waiting.extend(children.get(&pid).into_iter().flatten());
    }
    Some(usage)
}

fn of_process(pid: u32) -> Option<Usage> {
    let stat = stat(pid)?;
    let ticks = |field: usize| stat.get(field - 3)?.parse::<f64>().ok();
    // utime, stime, cutime, cstime: proc_pid_stat(5).
    let cpu: Option<f64> = (14..=17).map(ticks).sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Some(Usage {
        cpu_seconds: cpu? / TICKS_PER_SECOND,
        rss_bytes: number("VmRSS:").unwrap_or(0) * 1024,
        peak_rss_bytes: number("VmHWM:").unwrap_or(0) * 1024,
        threads: number("Threads:").unwrap_or(0),
        descriptors: descriptors as u64,
    })
}

/// The fields of /proc/pid/stat from the third on; the name before them may hold blanks and parentheses.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Children by parent, of all processes.
fn children() -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let parent = pid
            .and_then(stat)
            .and_then(|stat| stat.get(1)?.parse().ok());
        if let (Some(pid), Some(parent)) = (pid, parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

/// Seconds that all CPUs of the machine were busy since it started.
///
/// # Errors
/// Without Linux's /proc.
pub fn machine_busy_seconds() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
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
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn sees_cpu_time_and_memory_of_children_too() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'while :; do :; done' & read x; kill $!"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        loop {
            let usage = of_tree(shell.id()).unwrap();
            if usage.cpu_seconds >= 0.05 && usage.threads >= 2 {
                assert!(usage.peak_rss_bytes >= usage.rss_bytes && usage.rss_bytes > 100_000);
                assert!(usage.descriptors >= 6);
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{usage:?}");
            std::thread::yield_now();
        }
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(of_tree(shell.id()), None);
        assert!(machine_busy_seconds().unwrap() > 0.0);
    }
}
