//! What went wrong in PostgreSQL, as a class and in words. Used by the store. It must never repeat a URL, a password or
//! what a row holds, which PostgreSQL does in a message's detail.

use std::io::ErrorKind;

use orchestrator_core::{StoreError, StoreErrorClass};
use sqlx::Error;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// The transaction is read-only.
const READ_ONLY: &str = "25006";

/// Whether the connection is of no use after it.
pub(super) fn is_lost(error: &Error) -> bool {
    match error {
        Error::Database(error) => {
            let error = error.try_downcast_ref::<PgDatabaseError>();
            error.is_none_or(|error| {
                // A server that is read-only now may have been the primary: a new connection may lead to the one that is.
                matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                    || error.code() == READ_ONLY
            })
        }
        Error::Encode(_) | Error::InvalidArgument(_) | Error::ColumnDecode { .. } => false,
        _ => true,
    }
}

/// What kind of trouble an error is, in words without secrets.
pub(super) fn classified(error: impl Into<Error>) -> StoreError {
    use StoreErrorClass::{Data, Exhausted, Unavailable};
    let said = |class, text: &str| StoreError::new(class, format!("PostgreSQL: {text}"));
    match error.into() {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            of_state(&code, error.message())
        }
        Error::PoolTimedOut => said(
            Exhausted,
            "all connections are in use or being opened, and none became free in time (ORCH_DB_TIMEOUT_MS)",
        ),
        Error::Encode(_) | Error::InvalidArgument(_) => said(Data, "the row cannot be stored"),
        Error::Migrate(error) => match *error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                classified(error)
            }
            error => said(
                Unavailable,
                &format!("the ledger's table was made by another version: {error}"),
            ),
        },
        // A certificate that is not believed comes like this.
        Error::Io(error) if error.kind() == ErrorKind::InvalidData => said(
            Unavailable,
            &format!("{error}: see sslmode and sslrootcert in ORCH_DB_URL"),
        ),
        Error::Io(error) => said(
            Unavailable,
            &format!(
                "{}: is the server of ORCH_DB_URL there, and are the files it names?",
                error.kind()
            ),
        ),
        Error::Tls(error) => said(
            Unavailable,
            &format!("{error}: see sslmode and sslrootcert in ORCH_DB_URL"),
        ),
        _ => said(Unavailable, "the connection does not work: see ORCH_DB_URL"),
    }
}

/// By SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn of_state(code: &str, message: &str) -> StoreError {
    use StoreErrorClass::{Conflict, Data, Exhausted, Timeout, Unavailable};
    let (class, remedy) = match (code, code.get(..2).unwrap_or_default()) {
        ("57014", _) => (
            Timeout,
            "the statement took too long (ORCH_DB_TIMEOUT_MS), or somebody cancelled it",
        ),
        ("55P03", _) => (
            Timeout,
            "another session holds the lock for too long (ORCH_DB_TIMEOUT_MS)",
        ),
        ("40001" | "40P01", _) => (Conflict, "it may work when tried again"),
        ("53300", _) => (
            Exhausted,
            "others use all of the server's connections: see its max_connections",
        ),
        ("53100", _) => (Unavailable, "free some space on the server's disk"),
        (READ_ONLY, _) => (
            Unavailable,
            "ORCH_DB_URL must name the primary, and no read-only database",
        ),
        ("42501", _) => (
            Unavailable,
            "the user of ORCH_DB_URL needs SELECT, INSERT, UPDATE and DELETE on the ledger's table and SELECT on its \
             migrations table, and to make them, CREATE on the schema",
        ),
        ("42P01", _) => (
            Unavailable,
            "the ledger's table (ORCH_ERROR_TABLE) is gone, or not in the search_path: drop its migrations table too \
             and restart, and it is made anew",
        ),
        ("3D000", _) => (Unavailable, "create the database that ORCH_DB_URL names"),
        ("3F000", _) => (Unavailable, "the search_path names no schema that is there"),
        ("08P01", _) => (
            Unavailable,
            "a pooler in between must let `options` through (PgBouncer: ignore_startup_parameters)",
        ),
        // The message itself may quote the value.
        (_, "21" | "22" | "23" | "54") => {
            let message = format!("PostgreSQL: the row cannot be stored (SQLSTATE {code})");
            return StoreError::new(Data, message);
        }
        (_, "28") => (Unavailable, "see user and password in ORCH_DB_URL"),
        (_, "57") => (Unavailable, "the server is going down or coming up"),
        (_, "53") => (Unavailable, "the server is short of something"),
        _ => (Unavailable, "see ORCH_DB_URL"),
    };
    StoreError::new(class, format!("PostgreSQL: {message}: {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: &str, class: StoreErrorClass, says: &str) {
        let error = of_state(code, "the server's words");
        assert_eq!(error.class, class, "{code}: {error}");
        assert!(error.message.contains(says), "{code}: {error}");
    }

    #[test]
    fn what_tests_can_hardly_bring_about_has_its_class_and_remedy_too() {
        use StoreErrorClass::{Conflict, Data, Exhausted, Unavailable};
        check("53100", Unavailable, "free some space");
        check("53200", Unavailable, "short of something");
        check("53300", Exhausted, "max_connections");
        check("40P01", Conflict, "tried again");
        check("40001", Conflict, "tried again");
        check("57P03", Unavailable, "coming up");
        check("08P01", Unavailable, "PgBouncer");
        check("XX000", Unavailable, "the server's words");
        check("", Unavailable, "ORCH_DB_URL");
        for quoting in ["22P02", "23514", "54000"] {
            check(quoting, Data, quoting);
            assert!(!of_state(quoting, "s3cret").message.contains("s3cret"));
        }
    }
}
