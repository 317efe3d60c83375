//! The databases of the ledger, one file each, and which of them a URL names. Called once, by `LedgerPlan::new`.
//! Nothing here may show a URL: it may hold a password.

use std::fmt;
use std::sync::Arc;

use orchestrator_core::{FailureStore, TrackerError};

use super::LedgerSettings;

#[cfg(test)]
mod conformance;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod connections;
#[cfg(test)]
mod in_memory_tests;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(test)]
mod readme_tests;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(all(test, feature = "postgres"))]
mod tls_tests;

#[cfg(feature = "mysql")]
pub use mysql::MySqlStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;

/// The store that `ORCH_DB_URL` names. It is not connected to here.
pub(super) fn open(settings: &LedgerSettings) -> Result<Arc<dyn FailureStore>, TrackerError> {
    let refused = |message: &str| TrackerError {
        message: message.to_owned(),
    };
    let url = settings.url.as_deref().ok_or_else(|| {
        refused("ORCH_DB_URL is not set: the failure ledger needs a database, such as sqlite://ledger.db")
    })?;
    let scheme = url.split(':').next().unwrap_or_default();
    match scheme {
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(Arc::new(SqliteStore::new(
            url,
            &settings.table,
            settings.timeout,
        )?)),
        #[cfg(not(feature = "sqlite"))]
        "sqlite" => Err(refused(
            "ORCH_DB_URL names SQLite, which this program was built without (feature `sqlite`)",
        )),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let store = PostgresStore::new(url, &settings.table, settings.timeout)?;
            Ok(Arc::new(store.with_connections(settings.max_connections)))
        }
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(refused(
            "ORCH_DB_URL names PostgreSQL, which this program was built without (feature `postgres`)",
        )),
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => {
            let store = MySqlStore::new(url, &settings.table, settings.timeout)?;
            Ok(Arc::new(store.with_connections(settings.max_connections)))
        }
        #[cfg(not(feature = "mysql"))]
        "mysql" | "mariadb" => Err(refused(
            "ORCH_DB_URL names MySQL, which this program was built without (feature `mysql`)",
        )),
        _ => Err(refused(
            "ORCH_DB_URL names no database this version knows: it must begin with sqlite:, postgres: or mysql:",
        )),
    }
}

/// PostgreSQL cuts names at 63 bytes, without an error: the migrations table's must fit too.
const NAME_MAX: usize = 63 - "_orchestrator_migrations_".len();

/// A table's name that is safe in SQL.
#[derive(Clone, PartialEq, Eq)]
pub struct TableName(String);

impl TableName {
    /// Accepts `[A-Za-z_][A-Za-z0-9_]{0,37}`, but no name that databases or the ledger keep for themselves.
    pub fn parse(name: &str) -> Result<Self, TrackerError> {
        let first = |c: u8| c.is_ascii_alphabetic() || c == b'_';
        let well_formed = name.len() <= NAME_MAX
            && name.bytes().next().is_some_and(first)
            && name.bytes().all(|c| first(c) || c.is_ascii_digit());
        let lower = name.to_ascii_lowercase();
        if well_formed && !lower.starts_with("sqlite_") && !lower.starts_with("_orchestrator_") {
            return Ok(Self(name.to_owned()));
        }
        Err(TrackerError {
            message: "ORCH_ERROR_TABLE must be letters, digits and _, at most 38, no digit first, and begin neither \
                      with sqlite_ nor with _orchestrator_"
                .to_owned(),
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The table in which sqlx notes which migrations were applied: our own, so that it never meets the host
    /// application's, and one per ledger table.
    pub fn migrations(&self) -> String {
        match self.as_str() {
            "event_failures" => "_orchestrator_migrations".to_owned(),
            other => format!("_orchestrator_migrations_{other}"),
        }
    }
}

impl fmt::Debug for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, ok: bool) {
        assert_eq!(TableName::parse(name).is_ok(), ok, "{name}");
    }

    #[test]
    fn only_plain_names_are_tables() {
        check("event_failures", true);
        check("_x9", true);
        check("Order", true);
        check(&"a".repeat(38), true);
        check(&"a".repeat(39), false);
        for bad in [
            "",
            "9a",
            "a b",
            "a\"b",
            "a;drop",
            "a.b",
            "ä",
            "SQLite_x",
            "_orchestrator_migrations",
        ] {
            check(bad, false);
        }
    }
}
