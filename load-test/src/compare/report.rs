//! What a comparison says: a row per run, medians, spreads, ratios. Filled by `compare`. Pure: no clock,
//! no process, no broker.

use std::fmt::{self, Display, Write as _};

use anyhow::{Result, ensure};

use super::measure::Measured;

/// Whose run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The hand-written loop.
    Floor,
    /// The program on orders without faults.
    Clean,
    /// What is compared with either.
    Program,
}

impl Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Floor => "floor",
            Self::Clean => "clean",
            Self::Program => "program",
        })
    }
}

/// One thing measured, its name and unit, and how it is read from a run.
struct Figure {
    name: &'static str,
    of: fn(&Measured) -> f64,
    decimals: usize,
}

const THROUGHPUT: Figure = Figure {
    name: "records/s",
    of: |run| run.throughput,
    decimals: 0,
};
const STEADY: Figure = Figure {
    name: "first to last",
    of: |run| run.steady_throughput,
    decimals: 0,
};
const STARTUP: Figure = Figure {
    name: "start-up s",
    of: |run| run.startup_seconds,
    decimals: 2,
};
const CPU: Figure = Figure {
    name: "CPU s/million",
    of: |run| run.cpu_per_million,
    decimals: 2,
};
const MACHINE_CPU: Figure = Figure {
    name: "machine CPU s/million",
    of: |run| run.machine_cpu_per_million,
    decimals: 2,
};
const RSS: Figure = Figure {
    name: "peak RSS MiB",
    of: |run| run.peak_rss_bytes as f64 / 1_048_576.0,
    decimals: 0,
};
const FIGURES: [Figure; 6] = [THROUGHPUT, STEADY, STARTUP, CPU, MACHINE_CPU, RSS];

/// The runs that count.
#[derive(Debug, Default)]
pub(crate) struct Report {
    baseline: Vec<Measured>,
    program: Vec<Measured>,
}

impl Report {
    pub(crate) fn add(&mut self, who: Who, run: Measured) {
        match who {
            Who::Floor | Who::Clean => self.baseline.push(run),
            Who::Program => self.program.push(run),
        }
    }

    pub(crate) fn header() -> String {
        FIGURES.iter().fold(format!("{:10}", ""), |row, figure| {
            row + &format!("{:>width$}", figure.name, width = width(figure))
        })
    }

    pub(crate) fn row(who: Who, run: &Measured, counted: bool) -> String {
        let row = FIGURES.iter().fold(format!("{who:10}"), |row, figure| {
            let (value, width, decimals) = ((figure.of)(run), width(figure), figure.decimals);
            row + &format!("{value:>width$.decimals$}")
        });
        if counted { row } else { row + "  (warm-up)" }
    }

    /// Medians and spreads of both, and program / baseline for each figure.
    pub(crate) fn summary(&self) -> String {
        let mut text = format!(
            "\n{:<24}{:>12}{:>8}{:>12}{:>8}{:>8}\n",
            "median (spread)", "baseline", "", "program", "", "ratio"
        );
        for figure in &FIGURES {
            let (baseline, program) = self.sides(figure);
            let verdict = verdict(baseline, program);
            let Figure { name, decimals, .. } = *figure;
            // Writing to a String cannot fail.
            writeln!(
                text,
                "{name:<24}{:>12.decimals$}{:>8}{:>12.decimals$}{:>8}{:>8.3}  {verdict}",
                baseline.median,
                percent(baseline.spread),
                program.median,
                percent(program.spread),
                program.median / baseline.median,
            )
            .ok();
        }
        text
    }

    /// An error if the program misses a bound that is asked for.
    pub(crate) fn check(&self, min_throughput: Option<f64>, max_cpu: Option<f64>) -> Result<()> {
        let ratio = |figure| {
            let (baseline, program) = self.sides(figure);
            program.median / baseline.median
        };
        let (throughput, cpu) = (ratio(&THROUGHPUT), ratio(&CPU));
        ensure!(
            min_throughput.is_none_or(|min| throughput >= min),
            "throughput is {throughput:.3} of the baseline's, below --min-throughput-ratio"
        );
        ensure!(
            max_cpu.is_none_or(|max| cpu <= max),
            "CPU time per record is {cpu:.3} of the baseline's, above --max-cpu-ratio"
        );
        Ok(())
    }

    fn sides(&self, figure: &Figure) -> (Sample, Sample) {
        let sample = |runs: &[Measured]| Sample::of(runs.iter().map(figure.of).collect());
        (sample(&self.baseline), sample(&self.program))
    }
}

fn width(figure: &Figure) -> usize {
    figure.name.len().max(9) + 2
}

fn percent(share: f64) -> String {
    format!("({:.0} %)", share * 100.0)
}

#[derive(Clone, Copy)]
struct Sample {
    median: f64,
    /// From the lowest to the highest, as a share of the median.
    spread: f64,
}

impl Sample {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (Some(lowest), Some(highest)) = (values.first(), values.last()) else {
            return Self {
                median: f64::NAN,
                spread: f64::NAN,
            };
        };
        let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        Self {
            median,
            spread: (highest - lowest) / median,
        }
    }
}

/// What noise allows us to say.
fn verdict(baseline: Sample, program: Sample) -> &'static str {
    let difference = (program.median / baseline.median - 1.0).abs();
    if difference <= baseline.spread.max(program.spread) {
        "equal within the spread"
    } else if program.median < baseline.median {
        "program lower"
    } else {
        "program higher"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(throughput: f64) -> Measured {
        Measured {
            startup_seconds: 1.0,
            throughput,
            steady_throughput: throughput,
            cpu_per_million: 1e6 / throughput,
            machine_cpu_per_million: 2e6 / throughput,
            peak_rss_bytes: 1 << 26,
        }
    }

    fn report(baseline: &[f64], program: &[f64]) -> Report {
        Report {
            baseline: baseline.iter().copied().map(run).collect(),
            program: program.iter().copied().map(run).collect(),
        }
    }

    #[track_caller]
    fn check_verdict(baseline: &[f64], program: &[f64], expected: &str) {
        let (baseline, program) = report(baseline, program).sides(&THROUGHPUT);
        assert_eq!(verdict(baseline, program), expected);
    }

    #[test]
    fn a_difference_below_the_spread_is_equal() {
        check_verdict(
            &[100.0, 110.0, 90.0],
            &[85.0, 86.0, 84.0],
            "equal within the spread",
        );
        check_verdict(&[100.0, 101.0, 99.0], &[85.0, 86.0, 84.0], "program lower");
        check_verdict(
            &[100.0, 101.0, 99.0],
            &[120.0, 121.0, 119.0],
            "program higher",
        );
    }

    #[test]
    fn bounds_are_checked_against_medians() {
        let report = report(&[100.0, 100.0, 10.0], &[80.0, 80.0, 500.0]);
        assert!(report.check(Some(0.8), Some(1.25)).is_ok());
        assert!(report.check(Some(0.81), None).is_err());
        assert!(report.check(None, Some(1.24)).is_err());
        assert!(report.check(None, None).is_ok());
    }
}
