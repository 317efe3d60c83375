//! A broker that was left running on purpose, and how to end it later from another process.
//!
//! Used by `cargo xtask up` and `down`. It must never signal a pid that is not ours any more: pids
//! are reused, so the command line of the process has to name our folder.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::error::KafkaError;
use crate::command::output_within;

const DEADLINE: Duration = Duration::from_secs(30);

/// What is needed to find a detached broker again. Write it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detached {
    /// A JVM, watched by a shell that ends it and removes its folder upon SIGTERM.
    Process {
        /// Pid of the shell.
        supervisor: u32,
        /// The broker's folder.
        folder: PathBuf,
        /// What clients connect to.
        bootstrap_servers: String,
    },
    /// A container.
    Container {
        /// Its name.
        name: String,
        /// What clients connect to.
        bootstrap_servers: String,
    },
}

impl Detached {
    /// What clients connect to.
    pub fn bootstrap_servers(&self) -> &str {
        match self {
            Self::Process {
                bootstrap_servers, ..
            }
            | Self::Container {
                bootstrap_servers, ..
            } => bootstrap_servers,
        }
    }

    /// Whether it still runs, and is ours.
    pub fn is_running(&self) -> Result<bool, KafkaError> {
        match self {
            Self::Process {
                supervisor, folder, ..
            } => {
                let mut ps = Command::new("ps");
                ps.args(["-ww", "-o", "args=", "-p", &supervisor.to_string()]);
                let output = output_within(&mut ps, DEADLINE).map_err(KafkaError::io("run ps"))?;
                let line = String::from_utf8_lossy(&output.stdout);
                Ok(line.contains(folder.to_string_lossy().as_ref()))
            }
            Self::Container { name, .. } => {
                let mut inspect = Command::new("docker");
                inspect.args(["inspect", "--format", "{{.State.Running}}", name]);
                let output =
                    output_within(&mut inspect, DEADLINE).map_err(KafkaError::io("run docker"))?;
                Ok(output.status.success() && output.stdout.trim_ascii() == b"true")
            }
        }
    }

    /// Ends it and waits until it is gone; `false` if it was gone already.
    pub fn stop(&self) -> Result<bool, KafkaError> {
        if !self.is_running()? {
            return Ok(false);
        }
        match self {
            Self::Process {
                supervisor, folder, ..
            } => {
                let mut kill = Command::new("kill");
                kill.args(["-TERM", &supervisor.to_string()]);
                output_within(&mut kill, DEADLINE).map_err(KafkaError::io("run kill"))?;
                let give_up = Instant::now() + DEADLINE;
                while self.is_running()? {
                    if Instant::now() >= give_up {
                        let what = format!("end the broker in {}", folder.display());
                        return Err(KafkaError::io(what)(std::io::ErrorKind::TimedOut.into()));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Self::Container { name, .. } => {
                let mut remove = Command::new("docker");
                remove.args(["rm", "--force", "--volumes", name]);
                output_within(&mut remove, DEADLINE).map_err(KafkaError::io("run docker"))?;
            }
        }
        Ok(true)
    }
}
