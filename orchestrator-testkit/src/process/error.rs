//! What can go wrong with a program under test, with its last words.
//!
//! Made by every file of this folder, read by people.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// What went wrong with a program under test.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The operating system said no.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Cargo could not build it.
    #[error("cargo cannot build {name}:\n{tail}")]
    Build {
        /// The binary.
        name: String,
        /// The end of cargo's output.
        tail: String,
    },
    /// It had ended before what was wanted of it.
    #[error("{program} has ended ({status}) before {what}; its last lines:\n{tail}")]
    Ended {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What was wanted.
        what: String,
        /// Its last lines.
        tail: String,
    },
    /// It did not do what was wanted in time.
    #[error("{program}: no {what} within {deadline:?}; its last lines:\n{tail}")]
    Deadline {
        /// The program.
        program: String,
        /// What was wanted.
        what: String,
        /// The time given.
        deadline: Duration,
        /// Its last lines.
        tail: String,
    },
}

impl ProcessError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
