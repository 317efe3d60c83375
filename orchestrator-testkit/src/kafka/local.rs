//! A broker in a JVM of ours: KRaft, one combined node, own ports, own folder.
//!
//! Called by `mod.rs`. It must never start the JVM itself: that belongs to a [`ServerProcess`], so that
//! it cannot outlive us.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::error::KafkaError;
use super::fetch;
use super::options::{KafkaOptions, Tools};
use super::properties::{Addresses, Proxied, as_file, server_properties};
use super::ready::wait_until_ready;
use crate::command::output_within;
use crate::server::{End, PORT_TAKEN, START_TRIES_MAX, ServerProcess, free_port};

const JAVA_VERSION_MIN: u32 = 17;
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct LocalBroker {
    server: ServerProcess,
    command: Vec<OsString>,
    bootstrap: String,
    /// Where a proxy connects to, if there is one.
    proxied: Option<SocketAddr>,
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
                    if tries < START_TRIES_MAX && tail.contains(PORT_TAKEN) =>
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
        let proxied = options
            .proxy_port
            .map(|proxy_port| free_port().map(|port| Proxied { port, proxy_port }));
        let proxied = proxied.transpose().map_err(KafkaError::io("find a port"))?;
        let server = ServerProcess::new("orchestrator-kafka-", "broker.log", End::Kill)
            .map_err(KafkaError::io("create a folder for the broker"))?;
        let addresses = Addresses {
            listen_host: "127.0.0.1",
            port,
            controller_port,
            proxied,
        };
        let data = server.folder().join("data");
        let properties =
            server_properties(&addresses, &data.to_string_lossy(), &options.properties);
        let file = server.folder().join("server.properties");
        fs::write(&file, as_file(&properties))
            .map_err(KafkaError::io(format!("write {}", file.display())))?;

        let java = java_command(options, tools, libs);
        let kafka = |words: &[&str]| -> Vec<OsString> {
            let words = words.iter().map(OsString::from);
            java.iter().cloned().chain(words).collect()
        };
        let properties = file.to_string_lossy();
        let (tool, id) = ("kafka.tools.StorageTool", cluster_id());
        let format = kafka(&[tool, "format", "--standalone", "-t", &id, "-c", &properties]);
        let broker = Self {
            server,
            command: kafka(&["kafka.Kafka", &properties]),
            bootstrap: format!("127.0.0.1:{port}"),
            proxied: proxied.map(|proxied| (Ipv4Addr::LOCALHOST, proxied.port).into()),
            start_deadline: options.start_deadline,
        };
        // A formatter that failed wrote why; the system error alone says too little.
        broker.server.run(&format).map_err(|_| broker.died())?;
        broker.run()?;
        Ok(broker)
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub(super) fn proxied(&self) -> Option<SocketAddr> {
        self.proxied
    }

    /// Starts the JVM on the same ports and folder, and waits until it answers.
    pub(super) fn run(&self) -> Result<(), KafkaError> {
        self.server
            .start(&self.command)
            .map_err(self.cannot("start"))?;
        let remedy = format!("see {}", self.server.log().display());
        wait_until_ready(&self.bootstrap, self.start_deadline, &remedy, || {
            if self.is_running() {
                Ok(())
            } else {
                Err(self.died())
            }
        })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    pub(super) fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Ends the JVM and waits until it has ended.
    pub(super) fn end(&self, end: End) -> Result<(), KafkaError> {
        self.server.end(end).map_err(self.cannot("end"))
    }

    pub(super) fn pause(&self) -> Result<(), KafkaError> {
        self.server.pause().map_err(self.cannot("pause"))
    }

    pub(super) fn resume(&self) -> Result<(), KafkaError> {
        self.server.resume().map_err(self.cannot("resume"))
    }

    /// Leaves the broker to itself; returns the pid of the shell that watches it, which ends all
    /// upon SIGTERM.
    pub(super) fn detach(self) -> Result<(u32, PathBuf), KafkaError> {
        let cannot = self.cannot("detach");
        self.server.detach().map_err(cannot)
    }

    pub(super) fn folder(&self) -> &Path {
        self.server.folder()
    }

    fn cannot(&self, what: &str) -> impl FnOnce(io::Error) -> KafkaError + use<> {
        KafkaError::io(format!("{what} the broker in {}", self.folder().display()))
    }

    fn died(&self) -> KafkaError {
        KafkaError::Died {
            log: self.server.log().to_owned(),
            tail: self.server.log_tail(),
        }
    }
}

fn java_command(options: &KafkaOptions, tools: &Tools, libs: &Path) -> Vec<OsString> {
    let mut command: Vec<OsString> = vec![(&tools.java).into()];
    command.extend(jvm_flags(options).into_iter().map(OsString::from));
    command.extend(["-cp".into(), libs.join("*").into()]);
    command
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
