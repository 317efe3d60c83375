//! A server of ours: own folder, own port, own password, and the patience until it answers.
//!
//! Called by `mod.rs`, with what `postgres` and `mariadb` know of their programs. It must never let
//! a server run as root.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::error::DatabaseError;
use super::query::query;
use super::url::ServerUrl;
use crate::server::{PORT_TAKEN, START_TRIES_MAX, ServerProcess, User, free_port};

/// The user of our servers; may do everything.
const USER: &str = "orchestrator";
const PASSWORD_CHARACTERS: usize = 24;
const PAUSE: Duration = Duration::from_millis(20);
/// For one try to connect.
const TRY_DEADLINE: Duration = Duration::from_secs(2);

/// What a server is made of.
#[derive(Debug)]
pub(crate) struct Commands {
    /// Fills the folder.
    pub(crate) prepare: Vec<OsString>,
    /// Becomes the server.
    pub(crate) start: Vec<OsString>,
}

/// What the commands are made for.
pub(crate) struct Place<'a> {
    /// The server's folder; the commands' files may be written to it.
    pub(crate) folder: &'a Path,
    pub(crate) port: u16,
    pub(crate) user: &'static str,
    pub(crate) password: &'a str,
}

/// A server's programs, waiting to be told the place.
pub(crate) type CommandMaker<'a> = Box<dyn Fn(&Place<'_>) -> io::Result<Commands> + 'a>;

#[derive(Debug)]
pub(super) struct OwnServer {
    engine: Engine,
    server: ServerProcess,
    start: Vec<OsString>,
    url: ServerUrl,
    start_deadline: Duration,
}

impl OwnServer {
    pub(super) fn start(
        engine: Engine,
        start_deadline: Duration,
        maker: &CommandMaker<'_>,
    ) -> Result<Self, DatabaseError> {
        let mut tries = 1;
        loop {
            match Self::start_once(engine, start_deadline, maker) {
                Err(DatabaseError::Died { tail, .. })
                    if tries < START_TRIES_MAX && tail.contains(PORT_TAKEN) =>
                {
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    fn start_once(
        engine: Engine,
        start_deadline: Duration,
        maker: &CommandMaker<'_>,
    ) -> Result<Self, DatabaseError> {
        let port = free_port().map_err(DatabaseError::io("find a port"))?;
        let password: String = std::iter::repeat_with(fastrand::alphanumeric)
            .take(PASSWORD_CHARACTERS)
            .collect();
        let user = User::instead_of_root(&engine.users())
            .map_err(DatabaseError::io("find a user for the server"))?;
        let server = ServerProcess::new(engine.prefix(), "server.log", engine.end())
            .map_err(DatabaseError::io("create a folder for the server"))?;
        let place = Place {
            folder: server.folder(),
            port,
            user: USER,
            password: &password,
        };
        let mut commands = maker(&place).map_err(DatabaseError::io("write to the folder"))?;
        if let Some(user) = user {
            let giving = DatabaseError::io("give the folder to the server's user");
            user.give(server.folder()).map_err(giving)?;
            commands.prepare = user.command(commands.prepare);
            commands.start = user.command(commands.start);
        }
        let own = Self {
            engine,
            server,
            start: commands.start,
            url: ServerUrl::of_ours(engine, USER, &password, port),
            start_deadline,
        };
        // What failed wrote why; the system error alone says too little.
        own.server.run(&commands.prepare).map_err(|_| own.died())?;
        own.run()?;
        Ok(own)
    }

    pub(super) fn url(&self) -> &ServerUrl {
        &self.url
    }

    pub(super) fn folder(&self) -> &Path {
        self.server.folder()
    }

    pub(super) fn is_running(&self) -> bool {
        self.server.is_running()
    }

    pub(super) fn stop_immediate(&self) -> Result<(), DatabaseError> {
        let end = self.engine.end();
        self.server.end(end).map_err(self.cannot("stop"))
    }

    pub(super) fn restart(&self) -> Result<(), DatabaseError> {
        if self.is_running() {
            self.stop_immediate()?;
        }
        self.run()
    }

    pub(super) fn pause(&self) -> Result<(), DatabaseError> {
        self.server.pause().map_err(self.cannot("pause"))
    }

    pub(super) fn resume(&self) -> Result<(), DatabaseError> {
        self.server.resume().map_err(self.cannot("resume"))
    }

    /// Starts the process on the same port and folder, and waits until it answers.
    fn run(&self) -> Result<(), DatabaseError> {
        self.server
            .start(&self.start)
            .map_err(self.cannot("start"))?;
        let url = self.url.with_database(self.engine.admin_database());
        let give_up = Instant::now() + self.start_deadline;
        loop {
            let Err(error) = query(self.engine, &url, "SELECT 1", TRY_DEADLINE) else {
                return Ok(());
            };
            if !self.is_running() {
                return Err(self.died());
            }
            if Instant::now() >= give_up {
                return Err(DatabaseError::Unreachable {
                    server: self.engine.name(),
                    address: self.url.address().to_owned(),
                    deadline: self.start_deadline,
                    reason: error.to_string(),
                    remedy: format!("see {}", self.server.log().display()),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn cannot(&self, what: &str) -> impl FnOnce(io::Error) -> DatabaseError + use<> {
        let (name, folder) = (self.engine.name(), self.folder().display());
        DatabaseError::io(format!("{what} the {name} in {folder}"))
    }

    fn died(&self) -> DatabaseError {
        DatabaseError::Died {
            log: self.server.log().to_owned(),
            tail: self.server.log_tail(),
        }
    }
}
