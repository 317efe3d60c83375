//! How a program under test is started.
//!
//! Used by tests; gives a `Process`. It must never let a developer's own settings reach the child.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::lines::Lines;
use super::watcher::Watcher;
use super::{Process, ProcessError};

/// Variables of these families reach the child only if the test sets them.
const OWN_PREFIXES: [&str; 2] = ["ORCH_", "EXAMPLE_"];

/// A program and its environment, not started yet. It inherits our environment without `ORCH_*` and
/// `EXAMPLE_*`, so that a developer's shell does not change a test.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    /// What a shell does before, and that it becomes the program then.
    before: Option<String>,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    folder: Option<PathBuf>,
    log: Option<PathBuf>,
}

impl Program {
    /// A program at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            before: None,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            folder: None,
            log: None,
        }
    }

    /// Has a shell do something first that the program inherits: `umask 077`, say, or `trap '' XFSZ`.
    #[must_use]
    pub fn after(mut self, commands: &str) -> Self {
        self.before = Some(format!("{commands}; exec \"$0\" \"$@\""));
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(key.into(), value.into());
        self
    }

    /// Sets many variables.
    #[must_use]
    pub fn envs<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.environment
            .extend(variables.into_iter().map(|(k, v)| (k.into(), v.into())));
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sends what it says to a file, for runs that are long or measured. None of it is waited for as lines then.
    #[must_use]
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        self.log = Some(file.into());
        self
    }

    /// Starts it.
    pub fn start(&self) -> Result<Process, ProcessError> {
        let name = self.path.file_name().unwrap_or(OsStr::new("program"));
        let name = name.to_string_lossy().into_owned();
        let mut command = match &self.before {
            None => Command::new(&self.path),
            Some(before) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(before).arg(&self.path);
                shell
            }
        };
        command.args(&self.arguments).stdin(Stdio::null());
        if let Some(path) = &self.log {
            let creating = || ProcessError::io(format!("create {}", path.display()));
            let file = File::create(path).map_err(creating())?;
            let same = file.try_clone().map_err(creating())?;
            command.stdout(file).stderr(same);
        } else {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        for (key, _) in std::env::vars_os() {
            let text = key.to_string_lossy();
            if OWN_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&key);
            }
        }
        command.envs(&self.environment);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let starting = || format!("start {}", self.path.display());
        let mut child = command.spawn().map_err(ProcessError::io(starting()))?;
        let lines = Lines::collect(child.stdout.take(), child.stderr.take());
        let pid = child.id();
        // From here on `Process` ends the child if anything else fails.
        let mut process = Process {
            name,
            pid,
            child: Mutex::new(child),
            lines,
            log: self.log.clone(),
            watcher: None,
        };
        process.watcher = Some(Watcher::over(pid).map_err(ProcessError::io(starting()))?);
        Ok(process)
    }
}
