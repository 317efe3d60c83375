//! Automation of this repository: `cargo xtask demo`, `up`, `down`, `docs`, `instructions`, `chaos`,
//! `fuzz`.
//!
//! Run by developers and CI. It only reads the command line and hands over: each command has a file.

mod broker;
mod built;
mod chaos;
mod demo;
mod docs;
mod fuzz;
mod instructions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Automation of this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the example app on a real Kafka, with some poison, and check what comes out
    Demo(demo::Options),
    /// Start a Kafka broker that stays, from what is at hand: Docker, else a JDK
    Up,
    /// Stop the broker that `up` started
    Down,
    /// Write the generated parts of the README
    Docs(docs::Options),
    /// Count the instructions that a record costs, and compare them with the baseline
    Instructions(instructions::Options),
    /// Repeat the tests of faults, with another seed each round, until the time is up
    Chaos(chaos::Options),
    /// Try whatever reads input from outside with ever new input
    Fuzz(fuzz::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Task::Demo(options) => return demo::run(&options),
        Task::Chaos(options) => return chaos::run(&options),
        Task::Fuzz(options) => return fuzz::run(&options),
        Task::Instructions(options) => return instructions::run(&options),
        Task::Up => broker::up()?,
        Task::Down => broker::down()?,
        Task::Docs(options) => docs::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
