//! What a run leaves behind: `summary.json`, `latency.csv`, `latency.hlog`, `latency.svg` (percentiles) and
//! `report.html` in one folder. Called by `soak` and `latency`; only formats.

mod charts;
mod html;
mod summary;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

pub(crate) use charts::bars;
pub(crate) use html::grouped;

use crate::drive::Run;
use crate::order_audit::Verdict;
use crate::traffic::Second;

/// A run, as its reports tell it.
pub(crate) struct Story<'a> {
    /// What was run, in a word.
    pub(crate) command: &'static str,
    /// Names and values of its settings.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) run: &'a Run,
    /// None where nothing was audited.
    pub(crate) verdict: Option<&'a Verdict>,
    /// From SIGTERM to the program's end.
    pub(crate) exit: Option<Duration>,
    /// Whether each order had its moment to be sent.
    pub(crate) open_loop: bool,
    /// What is wrong beside the audit's findings.
    pub(crate) complaints: Vec<String>,
}

impl Story<'_> {
    /// Since when latencies are measured.
    pub(crate) fn measured_from(&self) -> &'static str {
        if self.open_loop {
            "the moment at which an order was to be sent"
        } else {
            "the moment at which an order was sent"
        }
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_well(&self) -> bool {
        self.complaints.is_empty() && self.verdict.is_none_or(Verdict::is_clean)
    }

    /// Ends the command: says what is wrong beside the audit's findings, writes the files, and says where they are.
    pub(crate) fn leave(&self, folder: &Path) -> Result<ExitCode> {
        for complaint in &self.complaints {
            println!("WRONG: {complaint}");
        }
        write(self, folder)?;
        println!("report: {}", folder.join("report.html").display());
        Ok(if self.is_well() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Writes all files.
fn write(story: &Story<'_>, folder: &Path) -> Result<()> {
    let summary = summary::of(story);
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put(
        "summary.json",
        serde_json::to_string_pretty(&summary)? + "\n",
    )?;
    csv(story, &folder.join("latency.csv"))?;
    hlog(story, &folder.join("latency.hlog"))?;
    put("latency.svg", charts::percentiles(&story.run.seconds)?)?;
    put("report.html", html::page(story, &summary)?)
}

/// A line a second.
fn csv(story: &Story<'_>, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(
        file,
        "second,sent,count,lag,p50_ms,p90_ms,p99_ms,p99.9_ms,max_ms,rss_bytes,cpu_seconds,threads,descriptors"
    )?;
    for one in &story.run.seconds.all {
        let quantile = |q: f64| {
            one.latency_ms(q)
                .map_or(String::new(), |ms| format!("{ms:.3}"))
        };
        let usage = one.usage.map_or(",,,".to_owned(), |usage| {
            format!(
                "{},{:.2},{},{}",
                usage.rss_bytes, usage.cpu_seconds, usage.threads, usage.descriptors
            )
        });
        writeln!(
            file,
            "{:.3},{},{},{},{},{},{},{},{},{usage}",
            one.at.as_secs_f64(),
            one.sent,
            one.accounted,
            one.lag(),
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(0.999),
            quantile(1.0),
        )?;
    }
    Ok(file.flush()?)
}

/// HdrHistogram's log, version 2: an interval a second, in microseconds, without loss.
fn hlog(story: &Story<'_>, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut serializer = V2DeflateSerializer::new();
    let all = &story.run.seconds.all;
    let ago = all.last().map_or(Duration::ZERO, |last| last.at);
    let begin = SystemTime::now() - ago;
    let mut log = IntervalLogWriterBuilder::new()
        .with_start_time(begin)
        .with_base_time(begin)
        .add_comment("microseconds")
        .with_max_value_divisor(1000.0)
        .begin_log_with(&mut file, &mut serializer)?;
    for Second {
        at,
        took,
        latencies,
        ..
    } in all
    {
        let written = log.write_histogram(latencies, *at - *took, *took, None::<Tag<'_>>);
        written.map_err(|error| anyhow::anyhow!("{}: {error:?}", path.display()))?;
    }
    drop(log);
    Ok(file.flush()?)
}

/// Processor, cores and memory of this machine.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| -> Option<String> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let kib = field(&read("/proc/meminfo"), "MemTotal");
    let kib = kib.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, {cores} cores, {} GB",
        cpu.unwrap_or_else(|| "unknown processor".to_owned()),
        kib.unwrap_or(0) / 1_000_000
    )
}

/// The commit of the workspace, if it is one of git, and whether anything was changed since.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(orchestrator_testkit::workspace::root())
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match git(&["rev-parse", "--short", "HEAD"]) {
        None => "unknown".to_owned(),
        Some(commit) => {
            let changed = git(&["status", "--porcelain"]).is_some_and(|text| !text.is_empty());
            commit + if changed { " and changes" } else { "" }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::traffic::{Counts, Seconds};

    #[test]
    fn a_run_that_broke_off_before_anything_came_out_has_a_report() {
        let run = Run {
            seconds: Seconds::new(Duration::ZERO),
            counts: Counts::default(),
            took: Duration::ZERO,
            first_output: None,
            broker_cpu_seconds: None,
            stalled: false,
            broken: None,
        };
        let story = Story {
            command: "soak",
            settings: Vec::new(),
            run: &run,
            verdict: None,
            exit: None,
            open_loop: false,
            complaints: vec!["the program has ended".to_owned()],
        };
        let summary = summary::of(&story);
        assert_eq!(summary["passed"], false);
        assert_eq!(summary["aggregatedEndToEndLatency90pct"], 0.0);
        let page = html::page(&story, &summary).unwrap();
        assert!(page.contains("<li>the program has ended</li>"), "{page}");
        assert!(
            charts::percentiles(&run.seconds)
                .unwrap()
                .contains("by percentile")
        );
    }
}
