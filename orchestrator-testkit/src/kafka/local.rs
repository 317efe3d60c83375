//! A broker in a JVM of ours: KRaft, one combined node, own ports, own folder.
//!
//! Called by `mod.rs`. The JVM belongs to a supervisor shell (`supervisor.rs`), never to us directly,
//! so that it cannot outlive us.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::KafkaError;
use super::fetch;
use super::options::{KafkaOptions, Tools};
use super::ports::free_port;
use super::properties::{Addresses, as_file, server_properties};
use super::ready::wait_until_ready;
use super::supervisor::Supervisor;
use crate::command::{output_within, tail};

const SCRIPT: &str = include_str!("supervisor.sh");
const JAVA_VERSION_MIN: u32 = 17;
/// Another process may take a free port before the broker does; then others are tried.
const START_TRIES_MAX: usize = 3;
const LOG_TAIL_LINES: usize = 30;
const PROBE_DEADLINE: Duration = Duration::from_secs(20);
/// For what the shell does at once.
const SHELL_DEADLINE: Duration = Duration::from_secs(20);
/// For what takes a JVM: formatting, and a graceful end.
const JVM_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct LocalBroker {
    supervisor: Mutex<Supervisor>,
    folder: PathBuf,
    bootstrap: String,
    start_deadline: Duration,
}

/// Whether a JVM and Kafka's jars can be had; if not, why.
pub(super) fn at_hand(tools: &Tools) -> Result<(), String> {
    let java = tools.java.display();
    let output = output_within(Command::new(&tools.java).arg("-version"), PROBE_DEADLINE)
        .map_err(|e| format!("{java} -version: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    match java_version(&text) {
        Some(version) if version >= JAVA_VERSION_MIN => {}
        _ => {
            return Err(format!(
                "{java} is not version {JAVA_VERSION_MIN} or later: {}",
                text.trim()
            ));
        }
    }
    if !fetch::at_hand(tools) {
        output_within(Command::new(&tools.maven).arg("--version"), PROBE_DEADLINE)
            .map_err(|e| format!("{} --version: {e}", tools.maven.display()))?;
    }
    Ok(())
}

/// The first number of a line such as `openjdk version "17.0.15" 2025-04-15`.
fn java_version(text: &str) -> Option<u32> {
    let quoted = text.split('"').nth(1)?;
    quoted.split(['.', '-', '+']).next()?.parse().ok()
}

impl LocalBroker {
    pub(super) fn start(options: &KafkaOptions, tools: &Tools) -> Result<Self, KafkaError> {
        let libs = fetch::kafka_libs(tools)?;
        let mut tries = 1;
        loop {
            match Self::start_once(options, tools, &libs) {
                Err(KafkaError::Died { tail, .. })
                    if tries < START_TRIES_MAX && tail.contains("Address already in use") =>
                {
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    fn start_once(options: &KafkaOptions, tools: &Tools, libs: &Path) -> Result<Self, KafkaError> {
        let port = free_port().map_err(KafkaError::io("find a port"))?;
        let controller_port = free_port().map_err(KafkaError::io("find a port"))?;
        // From `spawn` on, the supervisor removes the folder.
        let folder = tempfile::Builder::new()
            .prefix("orchestrator-kafka-")
            .tempdir()
            .map_err(KafkaError::io("create a folder for the broker"))?;
        let addresses = Addresses {
            listen_host: "127.0.0.1",
            port,
            controller_port,
        };
        let data = folder.path().join("data");
        let properties =
            server_properties(&addresses, &data.to_string_lossy(), &options.properties);
        let file = folder.path().join("server.properties");
        fs::write(&file, as_file(&properties))
            .map_err(KafkaError::io(format!("write {}", file.display())))?;

        let mut command: Vec<OsString> = vec![folder.path().into(), (&tools.java).into()];
        command.extend(jvm_flags(options).into_iter().map(OsString::from));
        command.extend(["-cp".into(), libs.join("*").into()]);
        let supervisor = Supervisor::spawn(SCRIPT, command)
            .map_err(KafkaError::io("start a shell for the broker"))?;
        let broker = Self {
            supervisor: Mutex::new(supervisor),
            folder: folder.keep(),
            bootstrap: format!("127.0.0.1:{port}"),
            start_deadline: options.start_deadline,
        };
        broker
            .ask(&format!("format {}", cluster_id()), JVM_DEADLINE)
            .map_err(|e| {
                // A formatter that failed wrote why; the system error alone says too little.
                match e {
                    KafkaError::Io { .. } => broker.died(),
                    other => other,
                }
            })?;
        broker.run()?;
        Ok(broker)
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Starts the JVM on the same ports and folder, and waits until it answers.
    pub(super) fn run(&self) -> Result<(), KafkaError> {
        self.ask("start", SHELL_DEADLINE)?;
        let remedy = format!("see {}", self.log().display());
        wait_until_ready(&self.bootstrap, self.start_deadline, &remedy, || {
            self.ask("alive", SHELL_DEADLINE)
                .map(drop)
                .map_err(|_| self.died())
        })
    }

    pub(super) fn is_running(&self) -> bool {
        self.ask("alive", SHELL_DEADLINE).is_ok()
    }

    /// Sends a signal by its name. For `KILL` and `TERM`, waits until the JVM has ended.
    pub(super) fn signal(&self, name: &str) -> Result<(), KafkaError> {
        self.ask(&format!("signal {name}"), JVM_DEADLINE).map(drop)
    }

    /// Leaves the broker to itself; returns the pid of the shell that watches it, which ends all
    /// upon SIGTERM.
    pub(super) fn detach(self) -> Result<(u32, PathBuf), KafkaError> {
        self.ask("detach", SHELL_DEADLINE)?;
        let supervisor = self
            .supervisor
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok((supervisor.forget(), self.folder))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    fn ask(&self, command: &str, deadline: Duration) -> Result<String, KafkaError> {
        self.shell()
            .ask(command, deadline)
            .map_err(KafkaError::io(format!(
                "{command} the broker in {}",
                self.folder.display()
            )))
    }

    fn shell(&self) -> MutexGuard<'_, Supervisor> {
        self.supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn died(&self) -> KafkaError {
        let log = self.log();
        let tail = match fs::read_to_string(&log) {
            Ok(text) => tail(&text, LOG_TAIL_LINES),
            Err(e) => format!("(no log: {e})"),
        };
        KafkaError::Died { log, tail }
    }
}

fn jvm_flags(options: &KafkaOptions) -> Vec<String> {
    let mut flags = vec![
        format!("-Xmx{}", options.heap),
        "-XX:-UsePerfData".to_owned(),
        "-Djava.awt.headless=true".to_owned(),
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn".to_owned(),
        "-Dorg.slf4j.simpleLogger.showDateTime=true".to_owned(),
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS".to_owned(),
    ];
    let levels = options.log_levels.iter();
    flags.extend(levels.map(|(of, level)| format!("-Dorg.slf4j.simpleLogger.log.{of}={level}")));
    if !options.full_jit {
        flags.extend(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned));
    }
    flags
}

/// 16 random bytes as Kafka writes them: base64url without padding.
fn cluster_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // The first must not look like an option; the last holds only the two highest of its six bits.
    let first = fastrand::usize(..62);
    let last = fastrand::usize(..4) << 4;
    let middle = std::iter::repeat_with(|| fastrand::usize(..64)).take(20);
    std::iter::once(first)
        .chain(middle)
        .chain(std::iter::once(last))
        .map(|i| char::from(ALPHABET[i]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_every_vendor() {
        for (text, version) in [
            ("openjdk version \"17.0.15\" 2025-04-15", Some(17)),
            ("java version \"1.8.0_292\"", Some(1)),
            ("openjdk version \"25\" 2025-09-16", Some(25)),
            ("openjdk version \"26-ea\" 2026-03-17", Some(26)),
            ("sh: java: not found", None),
        ] {
            assert_eq!(java_version(text), version, "{text}");
        }
    }

    #[test]
    fn a_cluster_id_is_22_characters_and_no_option() {
        let id = cluster_id();
        assert_eq!(id.len(), 22);
        assert!(!id.starts_with('-'));
    }
}
