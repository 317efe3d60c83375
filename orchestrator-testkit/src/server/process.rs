//! A server process, started, paused, ended and started again in one folder.
//!
//! Called by `kafka/local.rs` and `database/own.rs`. The process belongs to a supervisor shell
//! (`supervisor.rs`), never to us directly, so that it cannot outlive us. It must never signal
//! anything but that process and its children.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf, absolute};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::supervisor::Supervisor;
use crate::command::tail;
use crate::workspace::target_dir;

const SCRIPT: &str = include_str!("supervisor.sh");
const NAME_CHARACTERS: usize = 10;
/// MariaDB says what went wrong in its installation above 25 lines of advice.
const LOG_TAIL_LINES: usize = 60;
/// For what the shell does at once.
const SHELL_DEADLINE: Duration = Duration::from_secs(20);
/// For what takes the server's time: preparing its data, and a graceful end.
const SERVER_DEADLINE: Duration = Duration::from_secs(70);

/// The signal that ends a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At once: a crash.
    Kill,
    /// Gracefully.
    Term,
    /// To PostgreSQL: at once, but its children and its shared memory go too.
    Quit,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Term => "TERM",
            Self::Quit => "QUIT",
        }
    }
}

#[derive(Debug)]
pub(crate) struct ServerProcess {
    /// Goes before the supervisor, which removes the folder.
    log: Log,
    supervisor: Mutex<Supervisor>,
    folder: PathBuf,
}

/// What a server says. It goes with the server's folder, unless a test fails: then it is kept in
/// `target/testkit`, for whoever has to find out why.
#[derive(Debug)]
struct Log(PathBuf);

impl ServerProcess {
    /// A new temporary folder of this prefix for a server that ends by `end`. The supervisor makes
    /// it, and removes it: we may be killed at any moment.
    pub(crate) fn new(prefix: &str, log: &str, end: End) -> io::Result<Self> {
        let random = std::iter::repeat_with(fastrand::alphanumeric);
        let name = prefix.chars().chain(random.take(NAME_CHARACTERS));
        let folder = absolute(env::temp_dir())?.join(name.collect::<String>());
        let arguments = [folder.as_os_str(), log.as_ref(), end.name().as_ref()];
        let mut supervisor = Supervisor::spawn(SCRIPT, arguments)?;
        supervisor.reply(SHELL_DEADLINE)?;
        Ok(Self {
            log: Log(folder.join(log)),
            supervisor: Mutex::new(supervisor),
            folder,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log.0
    }

    /// The end of what it said.
    pub(crate) fn log_tail(&self) -> String {
        match fs::read(&self.log.0) {
            Ok(text) => tail(&String::from_utf8_lossy(&text), LOG_TAIL_LINES),
            Err(e) => format!("(no log: {e})"),
        }
    }

    /// Runs a command to its end, before the server is started. If it fails, the log says why.
    pub(crate) fn run(&self, command: &[OsString]) -> io::Result<()> {
        self.ask(&with("run", command)?, SERVER_DEADLINE)
    }

    /// Starts the server. It may end by itself soon after: ask [`is_running`](Self::is_running).
    pub(crate) fn start(&self, command: &[OsString]) -> io::Result<()> {
        self.ask(&with("start", command)?, SHELL_DEADLINE)
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        let answer = self.shell().ask("alive", SHELL_DEADLINE).ok()?;
        answer.parse().ok()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.ask("alive".as_ref(), SHELL_DEADLINE).is_ok()
    }

    /// Sends a signal and waits until the server has ended; a paused one goes on, to hear it.
    pub(crate) fn end(&self, end: End) -> io::Result<()> {
        self.ask(format!("end {}", end.name()).as_ref(), SERVER_DEADLINE)
    }

    /// Lets the server and its children stand still.
    pub(crate) fn pause(&self) -> io::Result<()> {
        self.ask("pause".as_ref(), SHELL_DEADLINE)
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) -> io::Result<()> {
        self.ask("resume".as_ref(), SHELL_DEADLINE)
    }

    /// Leaves the server to itself; returns the pid of the shell that watches it, which ends all
    /// upon SIGTERM.
    pub(crate) fn detach(self) -> io::Result<(u32, PathBuf)> {
        self.ask("detach".as_ref(), SHELL_DEADLINE)?;
        let supervisor = self
            .supervisor
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok((supervisor.forget(), self.folder))
    }

    fn ask(&self, command: &OsStr, deadline: Duration) -> io::Result<()> {
        self.shell().ask(command, deadline).map(drop)
    }

    fn shell(&self) -> MutexGuard<'_, Supervisor> {
        self.supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn keep(&self) -> io::Result<PathBuf> {
        let folder = target_dir().join("testkit");
        let server = self.0.parent().and_then(Path::file_name);
        let mut name = server.unwrap_or_default().to_owned();
        name.push(".log");
        fs::create_dir_all(&folder)?;
        let kept = folder.join(name);
        fs::copy(&self.0, &kept).map(|_| kept)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if !std::thread::panicking() || !self.0.exists() {
            return;
        }
        match self.keep() {
            Ok(kept) => eprintln!("what the server said: {}", kept.display()),
            Err(e) => eprintln!("what the server said in {} is lost: {e}", self.0.display()),
        }
    }
}

/// A line for the shell: each word quoted, so that it stays what it is.
fn with(verb: &str, command: &[OsString]) -> io::Result<OsString> {
    let mut line = verb.as_bytes().to_vec();
    for word in command {
        let word = word.as_bytes();
        if word.contains(&b'\n') {
            let why = "a command of a server must not hold a line break";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        line.extend_from_slice(b" '");
        for &byte in word {
            match byte {
                b'\'' => line.extend_from_slice(br"'\''"),
                other => line.push(other),
            }
        }
        line.push(b'\'');
    }
    Ok(OsString::from_vec(line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn server() -> ServerProcess {
        ServerProcess::new("orchestrator-test-", "server.log", End::Kill).unwrap()
    }

    fn command(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn words_reach_the_server_as_they_are() {
        let server = server();
        let words = ["it's", "$HOME", "two  spaces ", "\\", "`id`", "*", ""];
        let print = [&["printf", r"<%s>\n"], &words[..]].concat();
        server.run(&command(&print)).unwrap();
        let expected: Vec<String> = words.iter().map(|word| format!("<{word}>")).collect();
        assert_eq!(server.log_tail(), expected.join("\n"));
        assert!(server.run(&command(&["printf", "a\nb"])).is_err());
    }

    #[test]
    fn a_failed_preparation_names_the_log_and_leaves_the_supervisor_working() {
        let server = server();
        let error = server.run(&command(&["ls", "/nowhere"])).unwrap_err();
        assert!(error.to_string().contains("server.log"), "{error}");
        assert!(server.log_tail().contains("/nowhere"));
        assert!(!server.is_running());
        server.start(&command(&["sleep", "60"])).unwrap();
        assert!(server.is_running());
        assert!(server.start(&command(&["sleep", "60"])).is_err());
    }

    #[test]
    fn one_that_stands_still_is_ended_too_and_the_folder_goes_with_it() {
        let server = server();
        server.start(&command(&["sleep", "60"])).unwrap();
        server.pause().unwrap();
        server.end(End::Term).unwrap();
        assert!(!server.is_running());
        server.start(&command(&["sleep", "60"])).unwrap();
        server.pause().unwrap();
        let folder = server.folder().to_owned();
        drop(server);
        assert!(!folder.exists());
    }

    #[test]
    fn what_it_said_is_kept_when_a_test_fails() {
        let server = server();
        server.run(&command(&["echo", "why it failed"])).unwrap();
        let folder = server.folder().to_owned();
        let failed = std::thread::spawn(move || {
            let _server = server;
            panic!("a test that fails");
        });
        assert!(failed.join().is_err());
        assert!(!folder.exists());
        let name = format!("{}.log", folder.file_name().unwrap().display());
        let kept = target_dir().join("testkit").join(name);
        assert_eq!(fs::read_to_string(&kept).unwrap(), "why it failed\n");
        fs::remove_file(kept).unwrap();
    }
}
