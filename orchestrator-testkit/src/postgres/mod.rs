//! A real PostgreSQL at hand, for tests and benches.
//!
//! [`Postgres::start`] takes the server that `ORCH_TEST_POSTGRES_URL` names, else it makes one from the
//! installed programs, version 15 if there is a choice: own folder, own port of 127.0.0.1, password
//! by SCRAM, never as root. It ends with the value, and with the process, however that ends. What it
//! can do is in [`DatabaseServer`].

mod cluster;
mod options;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::OnceLock;

pub use options::PostgresOptions;

use crate::database::{CommandMaker, DatabaseError, DatabaseServer, Engine, Wanted, named};

/// A PostgreSQL that answers.
#[derive(Debug)]
pub struct Postgres(DatabaseServer);

impl Deref for Postgres {
    type Target = DatabaseServer;

    fn deref(&self) -> &DatabaseServer {
        &self.0
    }
}

impl Postgres {
    /// Gets a server and waits until it answers; blocks for a second or so.
    ///
    /// # Errors
    /// [`DatabaseError::NoneAtHand`] names what to install; the others say what went wrong on the
    /// way that was taken. A way that is there but fails is not passed over.
    pub fn start(options: PostgresOptions) -> Result<Self, DatabaseError> {
        Self::start_with(&options, named(Engine::Postgres), &cluster::folders())
    }

    fn start_with(
        options: &PostgresOptions,
        named: Option<String>,
        folders: &[PathBuf],
    ) -> Result<Self, DatabaseError> {
        let maker = cluster::programs(folders).map(|programs| -> CommandMaker<'_> {
            Box::new(move |place| programs.commands(options, place))
        });
        let server = DatabaseServer::start(Wanted {
            engine: Engine::Postgres,
            own: options.own,
            start_deadline: options.start_deadline,
            named,
            maker,
        })?;
        Ok(Self(server))
    }

    /// The server that all tests of this binary share; started by the first that asks, with
    /// `fsync=off` and 200 connections.
    ///
    /// # Panics
    /// If no server can be had; the text says what to do.
    #[track_caller]
    pub fn shared() -> &'static Self {
        // Statics are never dropped: the supervisor ends the server when the process ends.
        static SHARED: OnceLock<Result<Postgres, DatabaseError>> = OnceLock::new();
        let start = || {
            let options = PostgresOptions::new().max_connections(200);
            Self::start(options.setting("fsync", "off"))
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
        let error = Postgres::start_with(&PostgresOptions::new(), None, &[]).unwrap_err();
        let text = error.to_string();
        for word in ["apt-get install -y postgresql", "ORCH_TEST_POSTGRES_URL"] {
            assert!(text.contains(word), "{word} is missing in: {text}");
        }
    }

    #[test]
    fn a_named_server_that_is_away_is_not_passed_over() {
        let named = Some("postgres://u:secret@127.0.0.1:1/db".to_owned());
        let error = Postgres::start_with(&PostgresOptions::new(), named, &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1"), "{text}");
        assert!(text.contains("ORCH_TEST_POSTGRES_URL"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
