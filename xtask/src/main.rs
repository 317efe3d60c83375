//! Automation of this repository: `cargo xtask up`, `cargo xtask down`.
//!
//! Run by developers and CI. It only reads the command line and hands over: each command has a file.

mod broker;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Automation of this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start a Kafka broker that stays, from what is at hand: Docker, else a JDK
    Up,
    /// Stop the broker that `up` started
    Down,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Task::Up => broker::up(),
        Task::Down => broker::down(),
    }
}
