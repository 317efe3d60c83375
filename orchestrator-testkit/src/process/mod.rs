//! A program under test: started with an environment, watched, signalled, and never left behind.
//!
//! ```no_run
//! # async fn example() -> Result<(), orchestrator_testkit::process::ProcessError> {
//! use orchestrator_testkit::process::{Program, Signal, workspace_binary};
//! use std::time::Duration;
//! let app = Program::new(workspace_binary("example-app", &[])?)
//!     .env("ORCH_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
//!     .start()?;
//! app.wait_for_line(Duration::from_secs(10), |line| line.contains("ready")).await?;
//! app.signal(Signal::Term)?;
//! assert_eq!(app.wait(Duration::from_secs(30)).await?.code(), Some(0));
//! # Ok(()) }
//! ```
//!
//! Used by tests and demo. It must never signal a pid that may have been given to somebody else: the
//! child is collected and signalled under one lock.

mod build;
mod error;
mod lines;
mod program;
mod watcher;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use build::workspace_binary;
pub use error::ProcessError;
pub use lines::{Line, Stream};
pub use program::Program;

use crate::command::tail;
use crate::workspace::target_dir;
use lines::Lines;
use watcher::Watcher;

const PAUSE: Duration = Duration::from_millis(5);
/// How long the output of an ended process may still come; a grandchild may hold it open.
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);
/// As an exit status has it.
pub const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();
const TAIL_LINES: usize = 30;

/// What can be sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Please end: SIGTERM.
    Term,
    /// Ctrl-C: SIGINT.
    Int,
    /// End at once: SIGKILL.
    Kill,
    /// Stand still: SIGSTOP.
    Stop,
    /// Go on: SIGCONT.
    Cont,
}

/// What a process may be short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The number of its highest descriptor, and one: RLIMIT_NOFILE.
    Descriptors,
    /// The bytes of any file that it writes to, as on a full disk: RLIMIT_FSIZE.
    FileBytes,
    /// The bytes of its address space: RLIMIT_AS.
    Memory,
}

/// A running program. It is killed when this is dropped, and when our process ends in any way.
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    lines: Lines,
    log: Option<PathBuf>,
    watcher: Option<Watcher>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended; none while it runs.
    pub fn status(&self) -> Result<Option<ExitStatus>, ProcessError> {
        let ended = self.child().try_wait();
        ended.map_err(ProcessError::io(format!("look at {}", self.name)))
    }

    /// Whether it was stopped by [`Signal::Stop`], all of its threads.
    pub fn is_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid));
        let stopped = |thread: fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // What stands before it may hold anything, even a parenthesis: proc_pid_stat(5).
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        threads.is_ok_and(|threads| threads.flatten().all(stopped))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] if it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        use rustix::process::{Signal as Raw, kill_process};
        let raw = match signal {
            Signal::Term => Raw::TERM,
            Signal::Int => Raw::INT,
            Signal::Kill => Raw::KILL,
            Signal::Stop => Raw::STOP,
            Signal::Cont => Raw::CONT,
        };
        self.do_to_it(&format!("send {signal:?}"), |pid| kill_process(pid, raw))
    }

    /// From now on it may have no more of something; with none, as much as we. What it has it keeps. A program whose
    /// files get too large is ended by SIGXFSZ unless it was [told](Program::after) to ignore that.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] if it has ended already.
    pub fn limit(&self, what: Limit, most: Option<u64>) -> Result<(), ProcessError> {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        let resource = match what {
            Limit::Descriptors => Resource::Nofile,
            Limit::FileBytes => Resource::Fsize,
            Limit::Memory => Resource::As,
        };
        let ours = getrlimit(resource);
        let limit = Rlimit {
            current: most.or(ours.current),
            maximum: ours.maximum,
        };
        self.do_to_it(&format!("limit {what:?}"), |pid| {
            prlimit(Some(pid), resource, limit).map(drop)
        })
    }

    fn do_to_it(
        &self,
        what: &str,
        action: impl FnOnce(rustix::process::Pid) -> rustix::io::Result<()>,
    ) -> Result<(), ProcessError> {
        // Under this lock nobody collects the child, so the pid stays its own.
        let mut child = self.child();
        let doing = || format!("{what}: {}", self.name);
        if let Some(status) = child.try_wait().map_err(ProcessError::io(doing()))? {
            return Err(self.ended(status, what));
        }
        let done = rustix::process::Pid::from_raw(child.id().cast_signed())
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
            .and_then(|pid| action(pid).map_err(io::Error::from));
        done.map_err(ProcessError::io(doing()))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] if it has ended by itself.
    pub async fn kill(&self) -> Result<(), ProcessError> {
        self.signal(Signal::Kill)?;
        let status = self.wait(Duration::from_secs(10)).await?;
        match status.signal() {
            Some(SIGKILL) => Ok(()),
            _ => Err(self.ended(status, "it was killed")),
        }
    }

    /// Waits until it has ended, and its output is complete. Ask the status for `code()`, or
    /// `std::os::unix::process::ExitStatusExt::signal()`.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus, ProcessError> {
        let give_up = Instant::now() + deadline;
        loop {
            if let Some(status) = self.status()? {
                let drained = Instant::now() + DRAIN_DEADLINE;
                while !self.lines.complete() && Instant::now() < drained {
                    tokio::time::sleep(PAUSE).await;
                }
                return Ok(status);
            }
            if Instant::now() >= give_up {
                return Err(self.late("end", deadline));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits for a line, of either stream, that matches; lines that came before count too.
    pub async fn wait_for_line(
        &self,
        deadline: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String, ProcessError> {
        self.wait_for_line_after(0, deadline, matches).await
    }

    /// The same, from the `first`th line on: take [`line_count`](Self::line_count) before causing
    /// what is to be seen.
    pub async fn wait_for_line_after(
        &self,
        first: usize,
        deadline: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String, ProcessError> {
        let give_up = Instant::now() + deadline;
        let mut seen = first;
        loop {
            // Asked first: what came before the end is then in the lines.
            let ended = if self.lines.complete() {
                self.status()?
            } else {
                None
            };
            let new = self.lines.since(seen);
            seen += new.len();
            if let Some(line) = new.into_iter().find(|line| matches(&line.text)) {
                return Ok(line.text);
            }
            if let Some(status) = ended {
                return Err(self.ended(status, "the line that was waited for"));
            }
            if Instant::now() >= give_up {
                return Err(self.late("such line", deadline));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// All lines so far, of both streams, in the order they came.
    pub fn lines(&self) -> Vec<Line> {
        self.lines.since(0)
    }

    /// How many lines have come so far.
    pub fn line_count(&self) -> usize {
        self.lines.count()
    }

    /// The end of what it has said so far.
    pub fn tail(&self) -> String {
        match &self.log {
            None => self.lines.tail(TAIL_LINES),
            Some(path) => match fs::read(path) {
                Ok(said) => tail(&String::from_utf8_lossy(&said), TAIL_LINES),
                Err(error) => format!("(no log {}: {error})", path.display()),
            },
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, status: ExitStatus, what: &str) -> ProcessError {
        let (program, tail) = (self.name.clone(), self.tail());
        ProcessError::Ended {
            program,
            status,
            what: what.to_owned(),
            tail,
        }
    }

    fn late(&self, what: &str, deadline: Duration) -> ProcessError {
        let (program, tail) = (self.name.clone(), self.tail());
        ProcessError::Deadline {
            program,
            what: what.to_owned(),
            deadline,
            tail,
        }
    }
}

impl Process {
    /// What it said, for whoever has to find out why a test failed.
    fn keep_lines(&self) {
        if let Some(path) = &self.log {
            return eprintln!("what {self:?} said is in {}", path.display());
        }
        let folder = target_dir().join("testkit");
        let path = folder.join(format!("{}-{}.log", self.name, self.pid));
        let text = self.lines.tail(usize::MAX);
        match fs::create_dir_all(&folder).and_then(|()| fs::write(&path, text)) {
            Ok(()) => eprintln!("what {self:?} said is in {}", path.display()),
            Err(error) => eprintln!("what {self:?} said is lost: {error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_lines();
        }
        let mut child = self.child();
        // `kill` does nothing to a child that has been collected.
        if child.kill().is_ok() && child.wait().is_ok() {
            drop(child);
            if let Some(watcher) = self.watcher.take() {
                watcher.dismiss();
            }
        }
    }
}
