//! `load-test`: the hand-written performance floor, and the library measured against it.
//!
//! `floor` is the loop to be measured against, `fill` writes its input, `compare` alternates between
//! the floor and another program on the same input. This file only reads the command line.

mod audit;
mod bed;
mod broker;
mod compare;
mod drive;
mod fill;
mod floor;
mod latency;
mod ledger;
mod order_audit;
mod report;
mod soak;
mod sweep;
mod topics;
mod traffic;

use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;

#[derive(Parser)]
#[command(about, version)]
enum Command {
    /// Orders through a program, and an audit: every one exactly one of output, dead letter and ledger row
    Soak(soak::SoakArgs),
    /// Whether every record of a source is accounted for in the topics of any program, once or for as long as it runs
    Audit(audit::AuditArgs),
    /// Orders at a fixed rate, each measured from the moment it was to be sent
    Latency(latency::LatencyArgs),
    /// Run the hand-written exactly-once loop until it has processed a number of records
    Floor(floor::FloorArgs),
    /// Write seeded orders to a topic
    Fill(fill::FillArgs),
    /// Measure another program against the floor, in turn, on the same orders
    Compare(compare::CompareArgs),
    /// Measure the program along axes of settings, sizes, costs and ledgers
    Sweep(sweep::SweepArgs),
    /// Measure what the failure ledger costs: strategies and databases, in turn
    Ledger(ledger::LedgerArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Soak(args) => return soak::run(&args),
        Command::Audit(args) => return Ok(audit::run(&args)),
        Command::Latency(args) => return latency::run(&args),
        Command::Floor(args) => floor::run(&args),
        Command::Fill(args) => fill::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Ledger(args) => ledger::run(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A command's own arguments, from words of which the first is its name.
#[cfg(test)]
fn parsed<'a, A: clap::Args>(words: impl IntoIterator<Item = &'a str>) -> Result<A, clap::Error> {
    let command = A::augment_args(clap::Command::new("load-test"));
    A::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// `key=value` on the command line.
#[derive(Clone, Debug)]
struct Property {
    key: String,
    value: String,
}

impl FromStr for Property {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or("expected key=value")?;
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}
