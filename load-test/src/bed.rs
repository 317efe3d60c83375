//! Where orders run: a broker, topics, and the program under load, ours or one that is running already. Used by `soak`
//! and `latency`. It must leave nothing behind but its reports, and topics on a broker of somebody else only if the
//! program is somebody else's too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::audit::{Ledger, Offsets};
use orchestrator_testkit::process::{Process, Program, Signal, workspace_binary};
use orchestrator_testkit::reader::Isolation;

use crate::broker::{Broker, BrokerArgs};
use crate::order_audit::{LedgerScope, Scope, WantedRows};
use crate::{Property, topics};

const STOP_LIMIT: Duration = Duration::from_secs(60);
const READY_LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// How late the rows of a program may be that is not drained before the audit.
const LATE_ROWS: Duration = Duration::from_secs(30);

/// The program, and where it reads and writes.
#[derive(Args, Clone, Debug)]
pub(crate) struct BedArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Program to run, split at blanks, started without a shell; example-app unless given. It is configured by ORCH_
    /// variables, and {bootstrap-servers}, {source}, {target}, {dlq} and {group} are filled in
    #[arg(long)]
    command: Option<String>,
    /// Environment of the program, KEY=VALUE (repeatable)
    #[arg(long)]
    env: Vec<Property>,
    /// Run nothing: a program works already on the topics and the group that are named
    #[arg(long, requires_all = ["source_topic", "target_topic", "group_id"])]
    attach: bool,
    /// Topic that the program reads
    #[arg(long, requires = "attach")]
    source_topic: Option<String>,
    /// Topic that the program writes
    #[arg(long, requires = "attach")]
    target_topic: Option<String>,
    /// Its dead-letter queue, if it has one
    #[arg(long, requires = "attach")]
    dlq_topic: Option<String>,
    /// Its consumer group
    #[arg(long, requires = "attach")]
    group_id: Option<String>,
    /// The URL of its ledger, as in ORCH_DB_URL, if it has one
    #[arg(long, requires = "attach")]
    ledger_url: Option<String>,
    /// The ledger's table, as in ORCH_ERROR_TABLE
    #[arg(long, requires = "ledger_url", default_value = "event_failures")]
    ledger_table: String,
    /// Of which orders there must be rows; its strategy says so
    #[arg(long, requires = "ledger_url", default_value = "failures")]
    ledger_rows: WantedRows,
    /// Outputs need not be what example-app makes of orders; each must begin as its order does
    #[arg(long)]
    any_output: bool,
    /// Partitions of topics that have to be created
    #[arg(long, default_value_t = 8)]
    partitions: i32,
}

/// Everything set up; the program runs.
pub(crate) struct Bed {
    // In this order: the program ends before the broker does.
    program: Option<Process>,
    pub(crate) broker: Broker,
    pub(crate) scope: Scope,
    /// What the program was given.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) started: Instant,
}

impl Bed {
    /// Sets everything up; files of the program go to `folder`.
    pub(crate) fn make(args: &BedArgs, defaults: &[(&str, &str)], folder: &Path) -> Result<Self> {
        let broker = Broker::get(&args.broker)?;
        let name = fresh("load-test");
        let own = |given: &Option<String>, suffix: &str| {
            given.clone().unwrap_or_else(|| format!("{name}{suffix}"))
        };
        let source = own(&args.source_topic, "");
        let target = own(&args.target_topic, "-out");
        let group = own(&args.group_id, "-group");
        let mut env = environment(args, defaults, folder);
        for (key, value) in [
            ("ORCH_BOOTSTRAP_SERVERS", &broker.servers),
            ("ORCH_SOURCE_TOPICS", &source),
            ("ORCH_TARGET_TOPIC", &target),
            ("ORCH_GROUP_ID", &group),
        ] {
            env.insert(key.to_owned(), value.clone());
        }
        let dlq = if args.attach {
            args.dlq_topic.clone()
        } else {
            let topic = env.get("ORCH_DLQ_TOPIC").filter(|topic| !topic.is_empty());
            topic.map(|topic| topic.replace("{topic}", &source))
        };
        for topic in [Some(&source), Some(&target), dlq.as_ref()]
            .into_iter()
            .flatten()
        {
            topics::create(&broker.servers, topic, args.partitions)?;
        }
        let ledger = if args.attach {
            attached_ledger(args)?
        } else {
            ledger_of(&env)?
        };
        let starts = |topic: String| -> Result<(String, Offsets)> {
            let ends = ends(&broker.servers, &topic)?;
            Ok((topic, ends))
        };
        let scope = Scope {
            servers: broker.servers.clone(),
            group,
            source: starts(source)?,
            target: starts(target)?,
            dead_letters: dlq.map(starts).transpose()?,
            ledger,
            num_records: 0,
            check_content: !args.any_output,
        };
        // The program may have to be built first.
        let program = (!args.attach).then(|| program(args, &scope)).transpose()?;
        let started = Instant::now();
        let program = program.map(|program| {
            let program = program.envs(&env).log(folder.join("program.log"));
            program.start()
        });
        let program = program.transpose()?;
        Ok(Self {
            program,
            broker,
            scope,
            env,
            started,
        })
    }

    /// The process of a program of ours.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.program.as_ref().map(Process::pid)
    }

    /// Fails, with the end of its log, if a program of ours does not run any more.
    pub(crate) fn must_run(&self) -> Result<()> {
        let Some(program) = &self.program else {
            return Ok(());
        };
        if let Some(status) = program.status()? {
            bail!(
                "the program has ended ({status}); its last lines:\n{}",
                program.tail()
            );
        }
        Ok(())
    }

    /// What the program was given, without secrets.
    pub(crate) fn shown_env(&self) -> impl Iterator<Item = (String, String)> {
        let shown = |(key, value): (&String, &String)| {
            let secret = key == "ORCH_DB_URL" && !value.starts_with("sqlite:");
            let value = if secret { "(not shown)" } else { value };
            (key.clone(), value.to_owned())
        };
        self.env.iter().map(shown)
    }

    /// Waits until the group has members, so that what is measured is not the start.
    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let admin = Admin::new(&self.broker.servers)?;
        loop {
            // A broker that has just come up makes its groups' coordinators first.
            let members = runtime.block_on(admin.stable_members(&self.scope.group));
            if members.as_ref().is_ok_and(|members| !members.is_empty()) {
                return Ok(());
            }
            self.must_run()?;
            ensure!(
                self.started.elapsed() < READY_LIMIT,
                "nobody has joined the group {} within {READY_LIMIT:?} ({members:?})",
                self.scope.group
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Asks a program of ours to end, and says how long it took; one that does not end well is a complaint.
    pub(crate) fn stop(&mut self, complaints: &mut Vec<String>) -> Option<Duration> {
        let program = self.program.take()?;
        stopped(&program)
            .inspect_err(|error| complaints.push(format!("{error:#}")))
            .ok()
    }
}

/// Ends the program, and says how long it took; it must end well.
fn stopped(program: &Process) -> Result<Duration> {
    if let Some(status) = program.status()? {
        // Its last lines were told by whoever found that, or are in its log.
        bail!("the program had ended by itself ({status}); see program.log");
    }
    let asked = Instant::now();
    program.signal(Signal::Term)?;
    while program.status()?.is_none() {
        ensure!(
            asked.elapsed() < STOP_LIMIT,
            "the program did not end within {STOP_LIMIT:?} of SIGTERM; its last lines:\n{}",
            program.tail()
        );
        std::thread::sleep(LOOK);
    }
    let took = asked.elapsed();
    if let Some(status) = program.status()?
        && !status.success()
    {
        bail!(
            "the program ended badly ({status}); its last lines:\n{}",
            program.tail()
        );
    }
    Ok(took)
}

fn environment(
    args: &BedArgs,
    defaults: &[(&str, &str)],
    folder: &Path,
) -> BTreeMap<String, String> {
    let ledger = format!("sqlite://{}", folder.join("ledger.db").display());
    let common = [
        ("ORCH_HTTP_ADDR", "127.0.0.1:0"),
        ("ORCH_LOG_FORMAT", "PRETTY"),
        ("ORCH_DB_URL", &ledger),
    ];
    let given = args
        .env
        .iter()
        .map(|set| (set.key.as_str(), set.value.as_str()));
    common
        .into_iter()
        .chain(defaults.iter().copied())
        .chain(given)
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Of a program that runs already.
fn attached_ledger(args: &BedArgs) -> Result<Option<LedgerScope>> {
    let url = args.ledger_url.as_ref();
    let ledger = url.map(|url| Ledger::new(url, &args.ledger_table));
    let ledger = ledger.transpose()?;
    Ok(ledger.map(|ledger| LedgerScope {
        ledger,
        rows: args.ledger_rows,
        patience: LATE_ROWS,
    }))
}

/// Of a program of ours.
fn ledger_of(env: &BTreeMap<String, String>) -> Result<Option<LedgerScope>> {
    let rows = match env.get("ORCH_DB_STRATEGY").map(String::as_str) {
        Some("NONE") => return Ok(None),
        Some("OUTBOX" | "RELIABLE") => WantedRows::All,
        _ => WantedRows::Failures,
    };
    let table = env.get("ORCH_ERROR_TABLE");
    let table = table.map_or("event_failures", String::as_str);
    let ledger = env.get("ORCH_DB_URL").map(|url| Ledger::new(url, table));
    let ledger = ledger.transpose()?;
    Ok(ledger.map(|ledger| LedgerScope {
        ledger,
        rows,
        // It has ended before the audit: what it has not told by then never comes.
        patience: Duration::ZERO,
    }))
}

fn program(args: &BedArgs, scope: &Scope) -> Result<Program> {
    let Some(command) = &args.command else {
        println!("building example-app ..");
        return Ok(Program::new(workspace_binary("example-app", &[])?));
    };
    let dlq = scope.dead_letters.as_ref().map_or("", |(topic, _)| topic);
    let mut words = command.split_whitespace().map(|word| {
        word.replace("{bootstrap-servers}", &scope.servers)
            .replace("{source}", &scope.source.0)
            .replace("{target}", &scope.target.0)
            .replace("{dlq}", dlq)
            .replace("{group}", &scope.group)
    });
    let path = PathBuf::from(words.next().context("--command is empty")?);
    Ok(words.fold(Program::new(path), Program::arg))
}

/// The offsets at which what comes next will be.
fn ends(servers: &str, topic: &str) -> Result<Offsets> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let admin = Admin::new(servers)?;
    let asked = Instant::now();
    loop {
        // A leader that is named need not know it yet.
        match runtime.block_on(admin.end_offsets(topic, Isolation::Uncommitted)) {
            Ok(ends) => return Ok(ends),
            Err(error) if asked.elapsed() > READY_LIMIT => return Err(error.into()),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{BedArgs, LedgerScope, attached_ledger};
    use crate::order_audit::WantedRows;

    fn parse(line: &str) -> Result<BedArgs, clap::Error> {
        let words = ["bed"].into_iter().chain(line.split_whitespace());
        crate::parsed(words)
    }

    #[track_caller]
    fn check(more: &str, rows: WantedRows, table: &str) {
        let attached = "--attach --source-topic s --target-topic t --group-id g";
        let args = parse(&format!("{attached} --ledger-url sqlite://x {more}")).unwrap();
        let scope: LedgerScope = attached_ledger(&args).unwrap().unwrap();
        assert_eq!(scope.rows, rows);
        assert!(format!("{scope:?}").contains(&format!("{table:?}")));
    }

    #[test]
    fn the_ledger_of_a_program_that_runs_already_is_as_it_is_said_to_be() {
        check("", WantedRows::Failures, "event_failures");
        check(
            "--ledger-rows failures",
            WantedRows::Failures,
            "event_failures",
        );
        check("--ledger-rows all --ledger-table t", WantedRows::All, "t");
    }

    #[test]
    fn no_other_ledger_is_described() {
        for alone in [
            "--ledger-url sqlite://x",
            "--ledger-table t",
            "--ledger-rows all",
        ] {
            let error = parse(alone).err().unwrap();
            assert!(error.to_string().contains("--attach"), "{error}");
        }
        assert!(parse("").is_ok());
    }
}
