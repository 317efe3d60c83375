//! What a database server can do for a test, whichever it is.
//!
//! ```no_run
//! use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
//!
//! // One server for all tests of a binary; each test takes its own database.
//! let url = Postgres::shared().create_database("orders")?;
//!
//! // Or a server of one's own, to be ill-treated.
//! let server = Postgres::start(PostgresOptions::new().own())?;
//! server.stop_immediate()?;
//! server.restart()?;
//! # Ok::<(), orchestrator_testkit::database::DatabaseError>(())
//! ```
//!
//! [`Postgres`](crate::postgres::Postgres) and [`MariaDb`](crate::mariadb::MariaDb) start one; both
//! are a [`DatabaseServer`]. Everything here blocks, for as long as the server takes; an async test
//! of one thread stands still meanwhile.

mod engine;
mod error;
mod own;
mod programs;
mod query;
mod url;

use std::env;
use std::io;
use std::path::Path;
use std::time::Duration;

pub use error::DatabaseError;

pub(crate) use engine::Engine;
pub(crate) use own::{CommandMaker, Commands, Place};
pub(crate) use programs::{find, path_folders};

use crate::admin::fresh;
use own::OwnServer;
use query::query;
use url::ServerUrl;

const ATTACH_DEADLINE: Duration = Duration::from_secs(10);
const SQL_DEADLINE: Duration = Duration::from_secs(120);
/// Both servers allow some 64 characters; the rest is for what makes a name fresh.
const NAME_CHARACTERS_MAX: usize = 40;

/// A database server that answers. Dropping it ends it, unless it was there before us.
#[derive(Debug)]
pub struct DatabaseServer {
    engine: Engine,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Named by the environment; not ours.
    Attached(ServerUrl),
    Own(OwnServer),
}

/// What a test wants, and what the surroundings offer.
pub(crate) struct Wanted<'a> {
    pub(crate) engine: Engine,
    /// One of our own, even where the environment names another.
    pub(crate) own: bool,
    pub(crate) start_deadline: Duration,
    /// What the environment names.
    pub(crate) named: Option<String>,
    /// The server's programs; if they were not found, where they are not.
    pub(crate) maker: Result<CommandMaker<'a>, String>,
}

/// The server that the environment names for this engine.
pub(crate) fn named(engine: Engine) -> Option<String> {
    env::var(engine.variable())
        .ok()
        .filter(|url| !url.trim().is_empty())
}

impl DatabaseServer {
    pub(crate) fn start(wanted: Wanted<'_>) -> Result<Self, DatabaseError> {
        let engine = wanted.engine;
        let attach = match &wanted.named {
            Some(url) if !wanted.own => return Self::attach(engine, url),
            Some(_) => "set, but a server of our own is asked for",
            None => "not set",
        };
        let maker = wanted.maker.map_err(|programs| DatabaseError::NoneAtHand {
            server: engine.name(),
            install: engine.install(),
            programs,
            variable: engine.variable(),
            attach,
        })?;
        let own = OwnServer::start(engine, wanted.start_deadline, &maker)?;
        Ok(Self {
            engine,
            source: Source::Own(own),
        })
    }

    fn attach(engine: Engine, url: &str) -> Result<Self, DatabaseError> {
        let url = ServerUrl::parse(engine, url)?;
        let server = Self {
            engine,
            source: Source::Attached(url),
        };
        match query(engine, &server.admin_url(), "SELECT 1", ATTACH_DEADLINE) {
            Ok(_) => Ok(server),
            Err(reason) => Err(DatabaseError::Unreachable {
                server: engine.name(),
                address: server.address().to_owned(),
                deadline: ATTACH_DEADLINE,
                reason: reason.to_string(),
                remedy: format!("start that server, or unset {}", engine.variable()),
            }),
        }
    }

    /// Where a database of this server is, with user and password: a secret.
    pub fn url(&self, database: &str) -> String {
        self.server_url().with_database(database)
    }

    /// The same for a user that a test has made.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        self.server_url()
            .as_user(user, password)
            .with_database(database)
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.server_url().address()
    }

    /// The folder of a server of ours, `server.log` in it. It goes with it.
    pub fn folder(&self) -> Option<&Path> {
        match &self.source {
            Source::Own(own) => Some(own.folder()),
            Source::Attached(_) => None,
        }
    }

    /// A new, empty database whose name begins as given; its URL. It goes with the server: on one
    /// that is not ours it stays.
    pub fn create_database(&self, prefix: &str) -> Result<String, DatabaseError> {
        let prefix: String = prefix
            .chars()
            .take(NAME_CHARACTERS_MAX)
            .map(|c| match c.to_ascii_lowercase() {
                c if c.is_ascii_alphanumeric() => c,
                _ => '_',
            })
            .collect();
        let name = fresh(&prefix).replace('-', "_");
        self.admin_sql(&self.engine.create_database(&name))?;
        Ok(self.url(&name))
    }

    /// Runs SQL, one statement or more, on a connection of its own; answers the rows as text, one a
    /// line, values separated by `|`, NULL as nothing. Gives up after two minutes.
    pub fn sql(&self, database: &str, text: &str) -> Result<String, DatabaseError> {
        self.sql_at(&self.url(database), database, text)
    }

    /// Ends the connections to a database for which the condition holds, one on the columns of
    /// `pg_stat_activity` or `information_schema.processlist`; `true` ends all. How many there were.
    pub fn terminate_backends(
        &self,
        database: &str,
        condition: &str,
    ) -> Result<usize, DatabaseError> {
        let ids = self.admin_sql(&self.engine.connections(database, condition))?;
        let mut ended = 0;
        for id in ids.lines() {
            match self.admin_sql(&self.engine.terminate(id)) {
                // PostgreSQL says `f` of one that has gone by itself, MariaDB fails.
                Ok(answer) if answer != "f" => ended += 1,
                Ok(_) => {}
                Err(error) if is_unknown_thread(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    /// Whether the process of a server of ours is there (a paused one is).
    pub fn is_running(&self) -> Result<bool, DatabaseError> {
        Ok(self.own("look at")?.is_running())
    }

    /// Ends the server at once, as `pg_ctl stop -m immediate` does, MariaDB by SIGKILL: connections
    /// break, nothing is written back, the next start recovers what was committed.
    pub fn stop_immediate(&self) -> Result<(), DatabaseError> {
        self.own("stop")?.stop_immediate()
    }

    /// Starts the server again on the same port and data, stopping it first if it still runs, and
    /// waits until it answers.
    pub fn restart(&self) -> Result<(), DatabaseError> {
        self.own("restart")?.restart()
    }

    /// Stops all processes of the server with SIGSTOP: connections stay open, nothing answers.
    pub fn pause(&self) -> Result<(), DatabaseError> {
        self.own("pause")?.pause()
    }

    /// Lets a paused server go on.
    pub fn resume(&self) -> Result<(), DatabaseError> {
        self.own("resume")?.resume()
    }

    fn own(&self, action: &'static str) -> Result<&OwnServer, DatabaseError> {
        match &self.source {
            Source::Own(own) => Ok(own),
            Source::Attached(_) => Err(DatabaseError::NotOurs {
                action,
                server: self.engine.name(),
                variable: self.engine.variable(),
            }),
        }
    }

    fn server_url(&self) -> &ServerUrl {
        match &self.source {
            Source::Own(own) => own.url(),
            Source::Attached(url) => url,
        }
    }

    /// Where a user may be sure to get in: the database of his URL, if it has one.
    fn admin_url(&self) -> String {
        let url = self.server_url();
        let own = url.database();
        url.with_database(own.unwrap_or(self.engine.admin_database()))
    }

    fn admin_sql(&self, text: &str) -> Result<String, DatabaseError> {
        self.sql_at(&self.admin_url(), self.engine.admin_database(), text)
    }

    fn sql_at(&self, url: &str, database: &str, text: &str) -> Result<String, DatabaseError> {
        let (server, database) = (self.engine.name(), database.to_owned());
        query(self.engine, url, text, SQL_DEADLINE).map_err(|source| match source {
            sqlx::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => DatabaseError::NoAnswer {
                server,
                database,
                deadline: SQL_DEADLINE,
            },
            source => DatabaseError::Sql {
                server,
                database,
                source,
            },
        })
    }
}

/// MariaDB's answer to the end of a connection that has gone by itself.
fn is_unknown_thread(error: &DatabaseError) -> bool {
    const ER_NO_SUCH_THREAD: u16 = 1094;
    let DatabaseError::Sql {
        source: sqlx::Error::Database(source),
        ..
    } = error
    else {
        return false;
    };
    let source = source.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>();
    source.is_some_and(|error| error.number() == ER_NO_SUCH_THREAD)
}
