//! A broker that was left running on purpose, and how to end it later from another process.
//!
//! Used by `cargo xtask up` and `down`. It must never signal a pid that is not ours any more: pids
//! are reused, so the command line of the process has to name our folder.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
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
            } => Ok(watches(*supervisor, folder)? || broker_in(folder)?.is_some()),
            Self::Container { name, .. } => {
                let format = "{{.State.Running}}";
                let output = run("docker", &["inspect", "--format", format, name])?;
                Ok(output.status.success() && output.stdout.trim_ascii() == b"true")
            }
        }
    }

    /// Ends it, waits until it is gone, and removes its folder; `false` if it had ended already.
    pub fn stop(&self) -> Result<bool, KafkaError> {
        let was_running = self.is_running()?;
        match self {
            Self::Process {
                supervisor, folder, ..
            } => {
                if was_running {
                    if watches(*supervisor, folder)? {
                        run("kill", &["-TERM", &supervisor.to_string()])?;
                    } else if let Some(pid) = broker_in(folder)? {
                        // Its shell was killed: do what that would have done.
                        run("kill", &["-KILL", &pid])?;
                    }
                    self.wait_until_gone(folder)?;
                }
                remove(folder)?;
            }
            Self::Container { name, .. } => {
                if was_running {
                    run("docker", &["rm", "--force", "--volumes", name])?;
                }
            }
        }
        Ok(was_running)
    }

    fn wait_until_gone(&self, folder: &Path) -> Result<(), KafkaError> {
        let give_up = Instant::now() + DEADLINE;
        // A killed JVM loses its command line a moment before its sockets close.
        while self.is_running()? || TcpStream::connect(self.bootstrap_servers()).is_ok() {
            if Instant::now() >= give_up {
                let what = format!("end the broker in {}", folder.display());
                return Err(KafkaError::io(what)(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Whether this pid is still the shell that watches the broker in this folder.
fn watches(supervisor: u32, folder: &Path) -> Result<bool, KafkaError> {
    let output = run("ps", &["-ww", "-o", "args=", "-p", &supervisor.to_string()])?;
    let line = String::from_utf8_lossy(&output.stdout);
    Ok(line.contains(&format!("supervisor {} ", folder.display())))
}

/// The pid of the JVM in this folder, found by its command line.
fn broker_in(folder: &Path) -> Result<Option<String>, KafkaError> {
    let output = run("ps", &["-ww", "-e", "-o", "pid=", "-o", "args="])?;
    let all = String::from_utf8_lossy(&output.stdout);
    let end = format!(" kafka.Kafka {}/server.properties", folder.display());
    let line = all.lines().find(|line| line.trim_end().ends_with(&end));
    Ok(line.and_then(|line| Some(line.split_whitespace().next()?.to_owned())))
}

fn remove(folder: &Path) -> Result<(), KafkaError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(KafkaError::io(format!("remove {}", folder.display()))(e))
        }
        _ => Ok(()),
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<Output, KafkaError> {
    output_within(Command::new(program).args(arguments), DEADLINE)
        .map_err(KafkaError::io(format!("run {program}")))
}
