//! The example app as a process: built, started, asked for its health, drained. Called by `mod.rs`. What it tells of
//! itself only says when it is ready, never whether it is right.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use orchestrator_testkit::process::{Process, Program, Signal};
use orchestrator_testkit::workspace;
use serde_json::Value;

use super::folder;
use super::topics::Topics;

const POLL: Duration = Duration::from_millis(10);
const START_LIMIT: Duration = Duration::from_secs(60);
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// A Ctrl-C at the terminal reaches the app by itself, so soon.
const OWN_SIGNAL: Duration = Duration::from_millis(300);

/// Builds the app and says where it is. The build ends with the future.
pub(super) async fn build(release: bool) -> anyhow::Result<PathBuf> {
    let target = workspace::target_dir();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // All of the workspace, so that the dependencies have the features that they are tested with.
    cargo
        .current_dir(workspace::root())
        .args(["build", "--workspace", "--bin", "example-app"])
        .arg("--target-dir")
        .arg(&target);
    if release {
        cargo.arg("--release");
    }
    let mut cargo = Ended(cargo.spawn().context("cannot run cargo build")?);
    let status = loop {
        match cargo.0.try_wait().context("cannot wait for cargo build")? {
            Some(status) => break status,
            None => tokio::time::sleep(POLL).await,
        }
    };
    if !status.success() {
        bail!("cargo build of example-app failed");
    }
    let profile = if release { "release" } else { "debug" };
    Ok(target.join(profile).join("example-app"))
}

/// A child that does not outlive its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// The running app.
pub(super) struct App {
    process: Process,
    stopped: bool,
    lines_kept: usize,
}

impl App {
    pub(super) fn start(
        program: PathBuf,
        bootstrap: &str,
        topics: &Topics,
        ledger: &Path,
    ) -> anyhow::Result<Self> {
        let url = format!("sqlite://{}", ledger.display());
        let process = Program::new(program)
            .envs([
                ("ORCH_BOOTSTRAP_SERVERS", bootstrap),
                ("ORCH_SOURCE_TOPICS", &topics.source),
                ("ORCH_TARGET_TOPIC", &topics.target),
                ("ORCH_GROUP_ID", &topics.group),
                ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
                ("ORCH_DLQ_TOPIC", "{topic}.dlq"),
                ("ORCH_DB_STRATEGY", "LIGHTWEIGHT"),
                ("ORCH_DB_URL", &url),
                ("ORCH_HTTP_ADDR", "127.0.0.1:0"),
                ("ORCH_LOG_FORMAT", "PRETTY"),
            ])
            .start()?;
        Ok(Self {
            process,
            stopped: false,
            lines_kept: 0,
        })
    }

    /// Waits until the app owns all partitions; the last moment at which it was not seen to.
    pub(super) async fn wait_for_partitions(&mut self, partitions: i32) -> anyhow::Result<Instant> {
        let give_up = Instant::now() + START_LIMIT;
        let mut before = Instant::now();
        loop {
            let asked = Instant::now();
            if self.owned().await == Some(i64::from(partitions)) {
                return Ok(before);
            }
            before = asked;
            self.must_run()?;
            if asked >= give_up {
                bail!(self.failed(&format!(
                    "example-app did not get its partitions within {START_LIMIT:?}"
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// An error if it has ended by itself.
    pub(super) fn must_run(&mut self) -> anyhow::Result<()> {
        match self.process.status()? {
            None => Ok(()),
            Some(status) => bail!(self.failed(&format!("example-app ended by itself ({status})"))),
        }
    }

    /// Waits until it ends by itself, which it must not; keeps its log up to date meanwhile.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        loop {
            self.must_run()?;
            self.keep_log()?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Has it drain; it must end with exit code 0.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.stopped, true) || self.process.status()?.is_some() {
            return self.keep_log();
        }
        // A second signal would end it at once.
        let draining = |line: &str| line.contains("draining");
        let told = self.process.wait_for_line(OWN_SIGNAL, draining).await;
        if told.is_err() && self.process.status()?.is_none() {
            self.process.signal(Signal::Term)?;
        }
        let status = self.process.wait(DRAIN_LIMIT).await?;
        self.keep_log()?;
        if status.code() != Some(0) {
            bail!(self.failed(&format!("example-app did not drain ({status})")));
        }
        Ok(())
    }

    /// The most memory it has had so far, where the system tells (Linux).
    pub(super) fn peak_memory_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    }

    /// Where it answers over HTTP: its log says so.
    pub(super) fn http(&self) -> Option<SocketAddr> {
        let lines = self.process.lines();
        let serving = lines.iter().find(|line| line.text.contains("serving /"))?;
        serving.text.split("addr=").nth(1)?.trim().parse().ok()
    }

    async fn owned(&self) -> Option<i64> {
        let addr = self.http()?;
        // A short answer from this host; nothing else waits for this thread.
        let body = tokio::task::spawn_blocking(move || get(addr, "/health").ok());
        let health: Value = serde_json::from_str(&body.await.ok()??).ok()?;
        health
            .pointer("/components/partitions/details/owned")?
            .as_i64()
    }

    /// Writes what it has logged since the last time.
    fn keep_log(&mut self) -> anyhow::Result<()> {
        let path = folder().join("app.log");
        let lines = self.process.lines();
        let new = lines.get(self.lines_kept..).unwrap_or_default();
        let text: String = new.iter().map(|line| format!("{}\n", line.text)).collect();
        self.lines_kept = lines.len();
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// An error with the end of its log.
    pub(super) fn failed(&mut self, what: &str) -> anyhow::Error {
        let lines = self.process.lines();
        let tail = &lines[lines.len().saturating_sub(20)..];
        let tail: Vec<&str> = tail.iter().map(|line| line.text.as_str()).collect();
        let kept = self.keep_log();
        let error = anyhow::anyhow!("{what}; the end of its log:\n{}", tail.join("\n"));
        match kept {
            Ok(()) => error,
            Err(unkept) => error.context(unkept.to_string()),
        }
    }
}

/// The body of an answer.
fn get(addr: SocketAddr, path: &str) -> std::io::Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&addr, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    Ok(body.unwrap_or_default().to_owned())
}
