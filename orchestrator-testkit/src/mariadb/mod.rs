//! A real MariaDB at hand, for tests and benches.
//!
//! [`MariaDb::start`] takes the server that `ORCH_TEST_MYSQL_URL` names, MySQL or MariaDB, else it makes
//! one from the installed programs: own folder, own port of 127.0.0.1, a user with a password, never
//! as root. It ends with the value, and with the process, however that ends. What it can do is in
//! [`DatabaseServer`].

mod instance;
mod options;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::OnceLock;

pub use options::MariaDbOptions;

use crate::database::{CommandMaker, DatabaseError, DatabaseServer, Engine, Wanted, named};

/// A MariaDB that answers.
#[derive(Debug)]
pub struct MariaDb(DatabaseServer);

impl Deref for MariaDb {
    type Target = DatabaseServer;

    fn deref(&self) -> &DatabaseServer {
        &self.0
    }
}

impl MariaDb {
    /// Gets a server and waits until it answers; blocks for a second or two.
    ///
    /// # Errors
    /// [`DatabaseError::NoneAtHand`] names what to install; the others say what went wrong on the
    /// way that was taken. A way that is there but fails is not passed over.
    pub fn start(options: MariaDbOptions) -> Result<Self, DatabaseError> {
        Self::start_with(&options, named(Engine::MariaDb), &instance::folders())
    }

    fn start_with(
        options: &MariaDbOptions,
        named: Option<String>,
        folders: &[PathBuf],
    ) -> Result<Self, DatabaseError> {
        let maker = instance::programs(folders).map(|programs| -> CommandMaker<'_> {
            Box::new(move |place| programs.commands(options, place))
        });
        let server = DatabaseServer::start(Wanted {
            engine: Engine::MariaDb,
            own: options.own,
            start_deadline: options.start_deadline,
            named,
            maker,
        })?;
        Ok(Self(server))
    }

    /// The server that all tests of this binary share; started by the first that asks, with
    /// `innodb_flush_log_at_trx_commit=2` and 200 connections.
    ///
    /// # Panics
    /// If no server can be had; the text says what to do.
    #[track_caller]
    pub fn shared() -> &'static Self {
        // Statics are never dropped: the supervisor ends the server when the process ends.
        static SHARED: OnceLock<Result<MariaDb, DatabaseError>> = OnceLock::new();
        let start = || {
            let options = MariaDbOptions::new().max_connections(200);
            Self::start(options.flush_log_at_trx_commit(2))
        };
        match SHARED.get_or_init(start) {
            Ok(server) => server,
            Err(error) => panic!("{error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn none_at_hand_says_what_to_install() {
        let error = MariaDb::start_with(&MariaDbOptions::new(), None, &[]).unwrap_err();
        let text = error.to_string();
        for word in ["apt-get install -y mariadb-server", "ORCH_TEST_MYSQL_URL"] {
            assert!(text.contains(word), "{word} is missing in: {text}");
        }
    }

    #[test]
    fn a_url_of_another_kind_is_refused() {
        let named = Some("postgres://u:secret@127.0.0.1:1/db".to_owned());
        let error = MariaDb::start_with(&MariaDbOptions::new(), named, &[]).unwrap_err();
        assert!(error.to_string().contains("mysql://"), "{error}");
    }
}
