//! `cargo xtask demo`: orders with some poison through the example app, on a real Kafka, and a table of what came out.
//!
//! Called by `main.rs`. What is right is said by the test kit's reader and oracle, never by the app's own counts. It
//! must never leave behind anything that it started, however it ends.

mod app;
mod check;
mod ledger;
mod progress;
mod table;
mod topics;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use orchestrator_testkit::admin::Admin;
use orchestrator_testkit::kafka::{Kafka, KafkaKind, KafkaOptions};
use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::reader::{Isolation, ReadRecord, Until, read_all};
use orchestrator_testkit::{workspace, writer};
use tokio::signal::unix::{SignalKind, signal};

use app::App;
use check::{Seen, check};
use topics::Topics;

const SEED: u64 = 42;
const POISON_SHARE: f64 = 0.01;
/// How long the app may make no progress.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// What the command line says.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave broker and app running to be looked at, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Build the app with optimizations: takes longer, gives figures
    #[arg(long)]
    release: bool,
    /// How many orders to send
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    num_records: u64,
}

/// All that has to be ended again.
#[derive(Default)]
struct Started {
    app: Option<App>,
    topics: Option<(Admin, Topics)>,
    kafka: Option<Kafka>,
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let _one_at_a_time = lock()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let mut started = Started::default();
        let result = tokio::select! {
            // First: one that is kept ends well with Ctrl-C.
            biased;
            result = demo(options, &mut started) => result,
            ended = interrupted() => ended.map(|()| ExitCode::from(INTERRUPTED)),
        };
        tokio::select! {
            stopped = stop(started) => stopped?,
            // A second Ctrl-C waits for nothing: what was started ends with this process.
            ended = interrupted() => ended?,
        }
        result
    });
    // A thread that still reads, or waits for a broker, must not keep the process.
    runtime.shutdown_background();
    result
}

async fn demo(options: &Options, started: &mut Started) -> anyhow::Result<ExitCode> {
    let profile = if options.release { "release" } else { "debug" };
    println!("building example-app ({profile}) ..");
    let program = app::build(options.release).await?;

    println!("getting a Kafka broker ..");
    let kafka = tokio::task::spawn_blocking(|| Kafka::start(KafkaOptions::new())).await??;
    let bootstrap = kafka.bootstrap_servers().to_owned();
    let kind = kafka.kind();
    started.kafka = Some(kafka);
    println!("  Kafka at {bootstrap} ({kind})");

    let admin = Admin::new(&bootstrap)?;
    let topics = Topics::fresh();
    if kind == KafkaKind::Attached {
        started.topics = Some((admin.clone(), topics.clone()));
    }
    topics.create(&admin).await?;
    let orders = Orders::new(SEED).poison(POISON_SHARE);
    let places = 0..options.num_records;
    println!(
        "sending {} orders to {}, about 1 % of them poison ..",
        options.num_records, topics.source
    );
    writer::write(&bootstrap, &topics.source, orders.records(places)).await?;

    let ledger = folder().join("ledger.db");
    println!("running example-app in SKIP_AND_LOG with a DLQ and a ledger in SQLite ..");
    let app = started
        .app
        .insert(App::start(program, &bootstrap, &topics, &ledger)?);
    let joined = app.wait_for_partitions(topics::PARTITIONS).await?;
    progress::follow(&bootstrap, &topics, options.num_records, app).await?;
    let took = joined.elapsed();

    let ends = admin
        .end_offsets(&topics.source, Isolation::Committed)
        .await?;
    admin
        .wait_for_committed(&topics.group, &topics.source, &ends, PATIENCE)
        .await?;
    let run = table::Run {
        took,
        profile,
        peak_memory_bytes: app.peak_memory_bytes(),
    };
    if !options.keep {
        app.stop().await?;
    }
    let seen = look(&bootstrap, &topics, &ledger).await?;
    let (figures, wrong) = check(&seen, options.num_records);
    table::print(&figures, &seen.rows, &run);
    for problem in &wrong {
        println!("WRONG: {problem}");
    }
    if options.keep {
        table::print_kept(app, &bootstrap, &topics, &ledger);
        started.keep_until_interrupted().await?;
    } else if wrong.is_empty() {
        table::print_what_next(&ledger);
    }
    if wrong.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("the app's log: {}", folder().join("app.log").display());
    Ok(ExitCode::FAILURE)
}

impl Started {
    /// Waits for Ctrl-C, unless the app ends before.
    async fn keep_until_interrupted(&mut self) -> anyhow::Result<()> {
        let Some(app) = &mut self.app else {
            return Ok(());
        };
        tokio::select! {
            ended = interrupted() => ended,
            ended = app.ended() => ended,
        }
    }
}

/// Everything there is to be seen from outside.
async fn look(bootstrap: &str, topics: &Topics, ledger: &std::path::Path) -> anyhow::Result<Seen> {
    let read = async |topic: &str| -> anyhow::Result<Vec<ReadRecord>> {
        let topic = [topic];
        let all = read_all(
            bootstrap,
            &topic,
            Isolation::Committed,
            Until::End,
            PATIENCE,
        );
        Ok(all.await?)
    };
    let source = read(&topics.source).await?;
    let target = read(&topics.target).await?;
    let letters = read(&topics.dlq).await?;
    // Rows are marked as passed after the commit, in their own time.
    let give_up = Instant::now() + Duration::from_secs(10);
    let rows = loop {
        let rows = ledger::rows(ledger).await?;
        let complete = rows.len() >= letters.len() && rows.iter().all(|row| row.passed);
        if complete || Instant::now() >= give_up {
            break rows;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    Ok(Seen {
        source,
        target,
        letters,
        rows,
    })
}

/// Ends all that was started: the app first, so that it can leave its group.
async fn stop(started: Started) -> anyhow::Result<()> {
    if let Some(mut app) = started.app {
        // What it had to say is in its log; here it only has to be gone.
        if let Err(error) = app.stop().await {
            eprintln!("{error:#}");
        }
    }
    if let Some((admin, topics)) = started.topics {
        println!("deleting the topics of the demo ..");
        topics.delete(&admin).await;
    }
    // The destructor waits for the broker to end.
    tokio::task::spawn_blocking(move || drop(started.kafka))
        .await
        .context("stopping the broker")
}

/// Ctrl-C, or a request to end.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("\nstopping what was started ..");
    Ok(())
}

/// Where the ledger and the app's log are, also after the demo.
fn folder() -> PathBuf {
    workspace::target_dir().join("xtask").join("demo")
}

/// An empty folder for one demo at a time.
fn lock() -> anyhow::Result<File> {
    let folder = folder();
    let lock = folder.with_extension("lock");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    if file.try_lock().is_err() {
        bail!("another demo runs ({} is locked)", lock.display());
    }
    fs::remove_dir_all(&folder)
        .and_then(|()| fs::create_dir_all(&folder))
        .with_context(|| format!("cannot empty {}", folder.display()))?;
    Ok(file)
}
