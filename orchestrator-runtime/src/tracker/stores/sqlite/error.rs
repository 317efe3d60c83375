//! What went wrong in SQLite, as a class and in words. Used by the store. It must never repeat a URL, a path or a
//! payload.

use orchestrator_core::{StoreError, StoreErrorClass};

/// What kind of trouble an error is, in words without URLs, paths and payloads.
pub(super) fn classified(error: impl Into<sqlx::Error>) -> StoreError {
    use StoreErrorClass::{Data, Timeout, Unavailable};
    match error.into() {
        sqlx::Error::Database(error) => {
            let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
            let message = error.message();
            // The low byte of an extended code is the primary one: https://www.sqlite.org/rescode.html
            let (class, remedy) = match code & 0xff {
                5 | 6 => (Timeout, "another process holds the lock"),
                8 => (Unavailable, "is the file of ORCH_DB_URL writable?"),
                13 => (Unavailable, "free some space"),
                14 => (
                    Unavailable,
                    "does the folder of ORCH_DB_URL exist, and is it writable?",
                ),
                11 | 26 => (
                    Unavailable,
                    "move the file of ORCH_DB_URL away, a new one is made",
                ),
                18 | 19 | 20 | 25 => (Data, "the row cannot be stored"),
                _ => (Unavailable, "see ORCH_DB_URL"),
            };
            StoreError::new(class, format!("SQLite: {message}: {remedy}"))
        }
        sqlx::Error::PoolTimedOut => StoreError::new(Timeout, "SQLite: the connection is busy"),
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
            StoreError::new(Data, "SQLite: the row cannot be stored")
        }
        sqlx::Error::Migrate(error) => match *error {
            sqlx::migrate::MigrateError::Execute(error)
            | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => classified(error),
            error => StoreError::new(
                Unavailable,
                format!("SQLite: the ledger's table was made by another version: {error}"),
            ),
        },
        sqlx::Error::Io(error) => StoreError::new(Unavailable, format!("SQLite: {}", error.kind())),
        _ => StoreError::new(
            Unavailable,
            "SQLite: the connection does not work: see ORCH_DB_URL",
        ),
    }
}
