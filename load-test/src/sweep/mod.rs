//! `load-test sweep`: the program along one axis after the other, each point measured as `compare` does, a table and a
//! picture of each. Written as Markdown and SVG, for `docs/performance.md`.

mod axes;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use orchestrator_testkit::mariadb::{MariaDb, MariaDbOptions};
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
use orchestrator_testkit::process::workspace_binary;

use crate::broker::{Broker, BrokerArgs};
use crate::compare::{self, CompareArgs, Sample};
use crate::report::{bars, commit, grouped, machine};
use crate::soak::report_dir;
use axes::{Axis, Database, Point, axes};

/// What is swept.
#[derive(Args, Debug)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Axes, comma-separated: batch, commit, linger, workers, size, cost, ledger; all unless given
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Orders of a point that costs little; others have fewer
    #[arg(long, default_value_t = 500_000)]
    num_records: u64,
    /// Measured rounds of each point, after one that is not counted
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Where sweep.md and the pictures go; a new folder below target/load-test unless given
    #[arg(long)]
    report_dir: Option<PathBuf>,
}

/// The databases that were needed so far.
#[derive(Default)]
struct Databases {
    postgres: Option<Postgres>,
    mariadb: Option<MariaDb>,
}

pub(crate) fn run(args: &SweepArgs) -> Result<()> {
    let all = axes();
    for wanted in &args.only {
        let known = all.iter().any(|axis| axis.name == wanted);
        ensure!(known, "--only {wanted}: there is no such axis");
    }
    let folder = report_dir(args.report_dir.as_ref(), "sweep")?;
    let broker = Broker::get(&args.broker)?;
    let mut databases = Databases::default();
    let mut page = format!("Measured on {}, commit {}.\n", machine(), commit());
    for axis in all {
        if !args.only.is_empty() && !args.only.iter().any(|wanted| wanted == axis.name) {
            continue;
        }
        println!("== {}", axis.name);
        let mut figures = Vec::new();
        for point in &axis.points {
            println!("-- {}", point.label);
            let figure = measure(args, point, &broker, &mut databases);
            figures.push(figure.with_context(|| format!("{}: {}", axis.name, point.label))?);
        }
        page += &section(&axis, &figures)?;
        let labels = axis.points.iter().map(|point| point.label.clone());
        let rates = figures.iter().map(|[rate, ..]| rate.median);
        let picture = bars("records per second", &labels.zip(rates).collect::<Vec<_>>())?;
        fs::write(folder.join(format!("sweep-{}.svg", axis.name)), picture)?;
        // After each axis: a sweep takes long, and may be ended.
        fs::write(folder.join("sweep.md"), &page)?;
    }
    println!("tables and pictures: {}", folder.display());
    Ok(())
}

fn measure(
    args: &SweepArgs,
    point: &Point,
    broker: &Broker,
    databases: &mut Databases,
) -> Result<[Sample; 3]> {
    /// The arguments of a comparison, so that they have their defaults.
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CompareArgs,
    }
    let records = args.num_records as f64 * point.share.unwrap_or(1.0);
    let mut line = vec![
        "compare".to_owned(),
        "--with=nobody".to_owned(),
        format!("--num-records={}", records as u64),
        format!("--rounds={}", args.rounds),
    ];
    if let Some(bytes) = point.record_size {
        line.push(format!("--record-size={bytes}"));
    }
    if let Some(partitions) = point.partitions {
        line.push(format!("--partitions={partitions}"));
    }
    if point.costly {
        let program = workspace_binary("costly-app", &[])?;
        line.push(format!("--command={}", program.display()));
    }
    let url = match point.database {
        None => None,
        Some(Database::Sqlite) => Some("sqlite://{ledger}".to_owned()),
        Some(Database::Postgres) => {
            let server = match &databases.postgres {
                Some(server) => server,
                None => databases
                    .postgres
                    .insert(Postgres::start(PostgresOptions::new().own())?),
            };
            Some(server.create_database("sweep")?)
        }
        Some(Database::MariaDb) => {
            let server = match &databases.mariadb {
                Some(server) => server,
                None => databases
                    .mariadb
                    .insert(MariaDb::start(MariaDbOptions::new().own())?),
            };
            Some(server.create_database("sweep")?)
        }
    };
    let url = url.map(|url| ("ORCH_DB_URL".to_owned(), url));
    for (key, value) in point.env.iter().chain(&url) {
        line.push(format!("--env={key}={value}"));
    }
    let line = Line::try_parse_from(line)?;
    Ok(compare::compare(&line.args, broker)?.program())
}

fn section(axis: &Axis, figures: &[[Sample; 3]]) -> Result<String> {
    let Axis {
        name,
        about,
        points,
    } = axis;
    let mut text = format!(
        "\n### {about}\n| | records per second | spread | CPU seconds per million | peak MiB |\n|---|---|---|---|---|\n"
    );
    for (point, [rate, cpu, memory]) in points.iter().zip(figures) {
        writeln!(
            text,
            "| {} | {} | {:.0} % | {:.2} | {:.0} |",
            point.label,
            grouped(rate.median.round() as u64),
            rate.spread * 100.0,
            cpu.median,
            memory.median
        )?;
    }
    writeln!(text, "\n![{name}](sweep-{name}.svg)")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_table_has_grouped_digits() {
        let axis = Axis {
            name: "batch",
            about: "`ORCH_BATCH_MAX_RECORDS`",
            points: vec![Point {
                label: "1000".to_owned(),
                ..Point::default()
            }],
        };
        let sample = |median| Sample {
            median,
            spread: 0.16,
        };
        let figures = [sample(366_682.6), sample(2.81), sample(120.0)];
        let text = section(&axis, &[figures]).unwrap();
        let row = "| 1000 | 366,683 | 16 % | 2.81 | 120 |\n";
        assert!(text.contains(row), "{text}");
    }
}
