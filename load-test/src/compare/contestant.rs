//! Who takes part in a comparison, and how each is started.

use std::env;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use orchestrator_testkit::process::{Program, workspace_binary};

use super::CompareArgs;

/// What the program can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rival {
    /// The hand-written loop, exactly once
    Floor,
    /// The same at least once, without transactions
    FloorAtLeastOnce,
    /// The same that copies, without JSON
    Copy,
    /// Nothing else
    Nobody,
}

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::FloorAtLeastOnce => "floor-at-least-once",
            Self::Copy => "copy",
            Self::Nobody => "nobody",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Floor | Self::Nobody => &[],
            Self::FloorAtLeastOnce => &["--at-least-once"],
            Self::Copy => &["--copy"],
        }
    }
}

/// One that takes part.
#[derive(Clone, Debug)]
pub(super) struct Contestant {
    pub(super) name: String,
    pub(super) faulty: bool,
    /// It does other work, so its outputs are others.
    pub(super) other_outputs: bool,
    start: Start,
}

#[derive(Clone, Debug)]
enum Start {
    /// Ourselves, as the floor.
    Floor {
        rival: Rival,
        cpu_us: u64,
        records_per_transaction: u64,
    },
    /// Words of a command, to be filled in; and variables.
    Command(Vec<String>, Vec<(String, String)>),
}

/// Where a run takes place.
pub(super) struct Place<'a> {
    pub(super) servers: &'a str,
    pub(super) source: &'a str,
    pub(super) target: &'a str,
    pub(super) dlq: &'a str,
    pub(super) group: &'a str,
    pub(super) num_records: u64,
    pub(super) folder: &'a Path,
}

/// Those that the command line asks for; the first is the baseline, the last is the program.
pub(super) fn chosen(args: &CompareArgs) -> Result<Vec<Contestant>> {
    let words =
        |command: &str| -> Vec<String> { command.split_whitespace().map(str::to_owned).collect() };
    let command = match &args.command {
        Some(command) => words(command),
        None => {
            println!("building example-app ..");
            let path = workspace_binary("example-app", &[])?;
            vec![
                path.to_str()
                    .context("the target folder's name is not UTF-8")?
                    .to_owned(),
            ]
        }
    };
    ensure!(!command.is_empty(), "--command is empty");
    let env = args.env.iter();
    let env: Vec<_> = env
        .map(|set| (set.key.clone(), set.value.clone()))
        .collect();
    let program = |name: &str, faulty| Contestant {
        name: name.to_owned(),
        faulty,
        other_outputs: args.command.is_some(),
        start: Start::Command(command.clone(), env.clone()),
    };
    if args.fault.is_some() || args.poison.is_some() {
        return Ok(vec![program("clean", false), program("faulty", true)]);
    }
    let rivals = args.with.iter().filter(|rival| **rival != Rival::Nobody);
    let rivals = rivals.map(|rival| Contestant {
        name: rival.name().to_owned(),
        faulty: false,
        other_outputs: *rival == Rival::Copy,
        start: Start::Floor {
            rival: *rival,
            cpu_us: args.floor_cpu_us,
            records_per_transaction: args.floor_records_per_transaction,
        },
    });
    let others = args.other.iter().map(|other| Contestant {
        name: other.key.clone(),
        faulty: false,
        other_outputs: true,
        start: Start::Command(words(&other.value), Vec::new()),
    });
    Ok(rivals
        .chain(others)
        .chain([program("program", false)])
        .collect())
}

impl Contestant {
    /// The program, ready to be started.
    pub(super) fn program(&self, place: &Place<'_>) -> Result<Program> {
        match &self.start {
            // A child process too, so that all are measured alike.
            Start::Floor {
                rival,
                cpu_us,
                records_per_transaction,
            } => {
                let arguments = [
                    ["--bootstrap-servers", place.servers],
                    ["--source", place.source],
                    ["--target", place.target],
                    ["--group", place.group],
                    ["--num-records", &place.num_records.to_string()],
                    ["--cpu-us", &cpu_us.to_string()],
                    [
                        "--records-per-transaction",
                        &records_per_transaction.to_string(),
                    ],
                ];
                let all = ["floor"]
                    .into_iter()
                    .chain(arguments.as_flattened().iter().copied())
                    .chain(rival.arguments().iter().copied());
                Ok(
                    all.fold(Program::new(env::current_exe()?), |program, argument| {
                        program.arg(argument)
                    }),
                )
            }
            Start::Command(words, env) => {
                let ledger = place.folder.join(format!("{}.db", place.group));
                let mut words = words.iter().map(|word| {
                    word.replace("{bootstrap-servers}", place.servers)
                        .replace("{source}", place.source)
                        .replace("{target}", place.target)
                        .replace("{group}", place.group)
                        .replace("{num-records}", &place.num_records.to_string())
                });
                let program = Program::new(words.next().context("a command is empty")?)
                    .env("ORCH_BOOTSTRAP_SERVERS", place.servers)
                    .env("ORCH_SOURCE_TOPICS", place.source)
                    .env("ORCH_TARGET_TOPIC", place.target)
                    .env("ORCH_GROUP_ID", place.group)
                    .env("ORCH_HTTP_ADDR", "off")
                    .env("ORCH_DB_STRATEGY", "NONE")
                    .env("EXAMPLE_FAULTS", self.faulty.to_string())
                    .envs(env.iter().map(|(key, value)| {
                        let value = value
                            .replace("{dlq}", place.dlq)
                            .replace("{ledger}", &ledger.display().to_string());
                        (key, value)
                    }));
                Ok(words.fold(program, Program::arg))
            }
        }
    }
}
