//! What a comparison says: a row per run, medians, spreads, ratios to the baseline. Filled by `compare`. Pure: no clock,
//! no process, no broker.

use std::fmt::Write as _;

use anyhow::{Result, ensure};

use super::measure::Measured;

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
const BROKER_CPU: Figure = Figure {
    name: "broker CPU s/million",
    of: |run| run.broker_cpu_per_million,
    decimals: 2,
};
const RSS: Figure = Figure {
    name: "peak RSS MiB",
    of: |run| run.peak_rss_bytes as f64 / 1_048_576.0,
    decimals: 0,
};
const EXIT: Figure = Figure {
    name: "exit s",
    of: |run| run.exit_seconds,
    decimals: 2,
};
const FIGURES: [Figure; 7] = [THROUGHPUT, STEADY, STARTUP, CPU, BROKER_CPU, RSS, EXIT];
const NAME_WIDTH: usize = 22;

/// The runs that count.
#[derive(Debug)]
pub(crate) struct Report {
    names: Vec<String>,
    runs: Vec<Vec<Measured>>,
    own_broker: bool,
}

impl Report {
    /// The first is the baseline, the last is the program.
    pub(super) fn new(names: impl IntoIterator<Item = String>, own_broker: bool) -> Self {
        let names: Vec<String> = names.into_iter().collect();
        Self {
            runs: vec![Vec::new(); names.len()],
            names,
            own_broker,
        }
    }

    pub(super) fn add(&mut self, who: usize, run: Measured) {
        self.runs[who].push(run);
    }

    pub(super) fn header(own_broker: bool) -> String {
        FIGURES.iter().fold(" ".repeat(NAME_WIDTH), |row, figure| {
            row + &format!(
                "{:>width$}",
                name(figure, own_broker),
                width = width(figure)
            )
        })
    }

    pub(super) fn row(who: &str, run: &Measured, counted: bool) -> String {
        let row = FIGURES
            .iter()
            .fold(format!("{who:NAME_WIDTH$}"), |row, figure| {
                let (value, width, decimals) = ((figure.of)(run), width(figure), figure.decimals);
                row + &format!("{value:>width$.decimals$}")
            });
        if counted { row } else { row + "  (warm-up)" }
    }

    /// For each figure everybody's median and spread, and its ratio to the baseline's.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        for figure in &FIGURES {
            let baseline = self.sample(0, figure);
            let name = name(figure, self.own_broker);
            // Writing to a String cannot fail.
            writeln!(
                text,
                "\n{name}: median (spread), ratio to {}",
                self.names[0]
            )
            .ok();
            for (who, one) in self.names.iter().enumerate() {
                let sample = self.sample(who, figure);
                let decimals = figure.decimals;
                write!(
                    text,
                    "  {one:NAME_WIDTH$}{:>12.decimals$}{:>8}",
                    sample.median,
                    percent(sample.spread)
                )
                .ok();
                if who > 0 {
                    let ratio = sample.median / baseline.median;
                    write!(text, "{ratio:>8.3}  {}", verdict(baseline, sample)).ok();
                }
                text.push('\n');
            }
        }
        text
    }

    /// An error if the program misses a bound that is asked for.
    pub(super) fn check(&self, min_throughput: Option<f64>, max_cpu: Option<f64>) -> Result<()> {
        let ratio = |figure| {
            let program = self.sample(self.names.len() - 1, figure);
            program.median / self.sample(0, figure).median
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

    /// The program's records a second, CPU seconds per million, and MiB at its peak.
    pub(crate) fn program(&self) -> [Sample; 3] {
        let last = self.names.len() - 1;
        [THROUGHPUT, CPU, RSS].map(|figure| self.sample(last, &figure))
    }

    fn sample(&self, who: usize, figure: &Figure) -> Sample {
        Sample::of(self.runs[who].iter().map(figure.of).collect())
    }
}

/// Without a broker of ours, its share cannot be told from the rest.
fn name(figure: &Figure, own_broker: bool) -> &'static str {
    if figure.name == BROKER_CPU.name && !own_broker {
        "machine CPU s/million"
    } else {
        figure.name
    }
}

fn width(figure: &Figure) -> usize {
    figure.name.len().max(9) + 3
}

fn percent(share: f64) -> String {
    format!("({:.0} %)", share * 100.0)
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) median: f64,
    /// From the lowest to the highest, as a share of the median.
    pub(crate) spread: f64,
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
fn verdict(baseline: Sample, other: Sample) -> &'static str {
    let difference = (other.median / baseline.median - 1.0).abs();
    if difference <= baseline.spread.max(other.spread) {
        "equal within the spread"
    } else if other.median < baseline.median {
        "lower"
    } else {
        "higher"
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
            broker_cpu_per_million: 2e6 / throughput,
            peak_rss_bytes: 1 << 26,
            exit_seconds: 0.1,
        }
    }

    fn report(baseline: &[f64], program: &[f64]) -> Report {
        let mut report = Report::new(["floor", "program"].map(str::to_owned), true);
        for (who, runs) in [baseline, program].into_iter().enumerate() {
            runs.iter().for_each(|rate| report.add(who, run(*rate)));
        }
        report
    }

    #[track_caller]
    fn check_verdict(baseline: &[f64], program: &[f64], expected: &str) {
        let report = report(baseline, program);
        let samples = (report.sample(0, &THROUGHPUT), report.sample(1, &THROUGHPUT));
        assert_eq!(verdict(samples.0, samples.1), expected);
        assert!(report.summary().contains(expected));
    }

    #[test]
    fn a_difference_below_the_spread_is_equal() {
        let noisy = [100.0, 110.0, 90.0];
        check_verdict(&noisy, &[85.0, 86.0, 84.0], "equal within the spread");
        let steady = [100.0, 101.0, 99.0];
        check_verdict(&steady, &[85.0, 86.0, 84.0], "lower");
        check_verdict(&steady, &[120.0, 121.0, 119.0], "higher");
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
