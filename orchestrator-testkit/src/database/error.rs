//! What can go wrong between a test and its database server, and what to do about it.
//!
//! Made by every file of this folder, read by people. It must never hold a secret: addresses, names
//! of databases and files only.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no server, or why it would not do as told. Each text names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// Neither a named server nor the programs of one are at hand.
    #[error(
        "no {server} at hand. Either of these will do:\n  \
         1. {install} ({programs});\n  \
         2. set {variable} to the URL of a server that runs, whose user may create databases ({attach})"
    )]
    NoneAtHand {
        /// Which server.
        server: &'static str,
        /// What installs it.
        install: &'static str,
        /// Where its programs were looked for.
        programs: String,
        /// The variable that names a server.
        variable: &'static str,
        /// Why that way did not work.
        attach: &'static str,
    },
    /// A server was named, or started, and does not answer.
    #[error("no {server} answers at {address} within {deadline:?} ({reason}): {remedy}")]
    Unreachable {
        /// Which server.
        server: &'static str,
        /// Host and port.
        address: String,
        /// How long it was tried.
        deadline: Duration,
        /// What came of the last try.
        reason: String,
        /// What to look at.
        remedy: String,
    },
    /// The server's process ended by itself, or its data could not be prepared.
    #[error("the server ended by itself; the end of {log}:\n{tail}", log = .log.display())]
    Died {
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A fault was asked of a server whose process is not ours.
    #[error(
        "cannot {action} the {server} that {variable} names: unset it, or ask for a server of our own"
    )]
    NotOurs {
        /// What was asked.
        action: &'static str,
        /// Which server.
        server: &'static str,
        /// The variable that names it.
        variable: &'static str,
    },
    /// What [`DatabaseServer::sql`](super::DatabaseServer::sql) was told did not work.
    #[error("{server}, database {database}: {source}")]
    Sql {
        /// Which server.
        server: &'static str,
        /// Which database of it.
        database: String,
        /// What it said.
        source: sqlx::Error,
    },
    /// The server did not answer in time.
    #[error("{server}, database {database}: no answer within {deadline:?}")]
    NoAnswer {
        /// Which server.
        server: &'static str,
        /// Which database of it.
        database: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The variable does not hold a URL of this kind of server.
    #[error("{variable} must be {scheme}://user:password@host:port, a database may follow")]
    BadUrl {
        /// The variable.
        variable: &'static str,
        /// How such a URL begins.
        scheme: &'static str,
    },
    /// The operating system said no.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl DatabaseError {
    /// Names what was being done when the system said no.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
