//! The URL of a server, to which a database is added.
//!
//! Used by `mod.rs`. It must never show its secret: [`ServerUrl::address`] is for people.

use std::fmt;

use super::engine::Engine;
use super::error::DatabaseError;

/// `scheme://user:password@host:port`, and what follows the `?`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    server: String,
    parameters: String,
    database: Option<String>,
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.address())
    }
}

impl ServerUrl {
    pub(super) fn of_ours(engine: Engine, user: &str, password: &str, port: u16) -> Self {
        let scheme = engine.schemes()[0];
        Self {
            server: format!("{scheme}://{user}:{password}@127.0.0.1:{port}"),
            parameters: String::new(),
            database: None,
        }
    }

    /// Takes apart what the user wrote.
    pub(super) fn parse(engine: Engine, text: &str) -> Result<Self, DatabaseError> {
        let bad = || DatabaseError::BadUrl {
            variable: engine.variable(),
            scheme: engine.schemes()[0],
        };
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(bad)?;
        if !engine.schemes().contains(&scheme) {
            return Err(bad());
        }
        let (rest, parameters) = rest
            .split_once('?')
            .map_or((rest, String::new()), |(rest, all)| {
                (rest, format!("?{all}"))
            });
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            server: format!("{scheme}://{authority}"),
            parameters,
            database: Some(database.to_owned()).filter(|name| !name.is_empty()),
        })
    }

    /// The database that the URL came with.
    pub(super) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    pub(super) fn with_database(&self, database: &str) -> String {
        format!("{}/{database}{}", self.server, self.parameters)
    }

    /// The same server as somebody else.
    pub(super) fn as_user(&self, user: &str, password: &str) -> Self {
        let scheme = self.server.split("://").next().unwrap_or_default();
        Self {
            server: format!("{scheme}://{user}:{password}@{}", self.address()),
            ..self.clone()
        }
    }

    /// Host and port.
    pub(super) fn address(&self) -> &str {
        let authority = self.server.split("://").nth(1).unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_database_takes_the_place_of_the_one_in_the_url() {
        for (given, expected) in [
            ("postgres://a:b@h:1/x", "postgres://a:b@h:1/db"),
            ("postgresql://a:b@h:1", "postgresql://a:b@h:1/db"),
            ("postgres://a:b@h:1/", "postgres://a:b@h:1/db"),
            (
                "postgres://a:b@h:1/x?sslmode=require",
                "postgres://a:b@h:1/db?sslmode=require",
            ),
            (
                "postgres://a:b@h:1?sslmode=require",
                "postgres://a:b@h:1/db?sslmode=require",
            ),
        ] {
            let url = ServerUrl::parse(Engine::Postgres, given).unwrap();
            assert_eq!(url.with_database("db"), expected);
            assert_eq!(url.address(), "h:1");
            assert!(!format!("{url:?}").contains('b'));
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_shown() {
        for text in [
            "secret",
            "mysql://u:secret@h",
            "postgres://",
            "postgres:///x",
        ] {
            let error = ServerUrl::parse(Engine::Postgres, text).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn another_user_is_put_in_place_of_ours() {
        let url = ServerUrl::of_ours(Engine::MariaDb, "root", "secret", 7);
        let other = url.as_user("app", "own").with_database("db");
        assert_eq!(other, "mysql://app:own@127.0.0.1:7/db");
    }
}
