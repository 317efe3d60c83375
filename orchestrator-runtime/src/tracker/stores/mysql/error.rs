//! What went wrong in MySQL or MariaDB, as a class and in words. Used by the store. It must never repeat what the
//! server says: there are values in it, names of users and of hosts.

use std::io::ErrorKind;

use orchestrator_core::StoreErrorClass::{self, Conflict, Data, Exhausted, Timeout, Unavailable};
use orchestrator_core::{StoreError, TrackerError};
use sqlx::migrate::MigrateError;
use sqlx::mysql::MySqlDatabaseError;

/// What kind of trouble an error is, in words of ours.
pub(super) fn classified(error: impl Into<sqlx::Error>) -> StoreError {
    let (class, words) = match error.into() {
        sqlx::Error::Database(error) => {
            return match error.try_downcast_ref::<MySqlDatabaseError>() {
                Some(error) => numbered(error.number()),
                None => numbered(0),
            };
        }
        sqlx::Error::PoolTimedOut => (
            Exhausted,
            "all connections to the ledger's database are in use or being opened".to_owned(),
        ),
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
            (Data, "the row cannot be stored".to_owned())
        }
        sqlx::Error::Migrate(error) => match *error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                return classified(error);
            }
            error => (
                Unavailable,
                format!("the ledger's table was made by another version: {error}"),
            ),
        },
        sqlx::Error::Io(error) => (Unavailable, of_io(error.kind())),
        sqlx::Error::Tls(_) => (Unavailable, no_tls()),
        sqlx::Error::Configuration(_) => (
            Unavailable,
            "the server wants a password without TLS: add ssl-mode=REQUIRED to ORCH_DB_URL, or build with the \
             feature `mysql-rsa`"
                .to_owned(),
        ),
        _ => (
            Unavailable,
            "the connection does not work: see ORCH_DB_URL".to_owned(),
        ),
    };
    StoreError::new(class, format!("MySQL: {words}"))
}

fn of_io(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::NotFound => {
            "a file that ORCH_DB_URL names is not there: see ssl-ca, ssl-cert, ssl-key and socket"
                .to_owned()
        }
        // What the TLS library makes of a certificate that is not trusted.
        ErrorKind::InvalidData => no_tls(),
        kind => format!("no connection to the server of ORCH_DB_URL: {kind}"),
    }
}

fn no_tls() -> String {
    "no TLS with the server of ORCH_DB_URL: do its certificate and ssl-mode, ssl-ca, ssl-cert, ssl-key fit?".to_owned()
}

/// Whether its connection is of no use any more.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let error = error.try_downcast_ref::<MySqlDatabaseError>();
            error.is_some_and(|error| ends_connection(error.number()))
        }
        sqlx::Error::Encode(_)
        | sqlx::Error::InvalidArgument(_)
        | sqlx::Error::ColumnDecode { .. } => false,
        _ => true,
    }
}

/// The server goes, or has closed the connection, or takes no writes, or (behind a proxy) is another than the one that
/// prepared.
fn ends_connection(number: u16) -> bool {
    // 1153: a packet too large, after which the server hangs up. 1290, 1792, 1836: read-only; it may have been the primary,
    // and a new connection may lead to the one that is.
    matches!(
        number,
        1053 | 1153 | 1158..=1161 | 1243 | 1290 | 1792 | 1836 | 1927 | 3169 | 4031
    )
}

/// See <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html> and
/// <https://mariadb.com/kb/en/mariadb-error-code-reference/>.
fn numbered(number: u16) -> StoreError {
    let (class, words) = class_of(number);
    StoreError::new(class, format!("MySQL: {words} (error {number})"))
}

fn class_of(number: u16) -> (StoreErrorClass, &'static str) {
    match number {
        1020 | 1213 | 1614 | 1615 | 3101 => (
            Conflict,
            "another session was in the way, and the statement was undone",
        ),
        1205 | 3572 => (
            Timeout,
            "another session holds the lock of a row or of the table",
        ),
        1317 | 1969 | 3024 => (
            Timeout,
            "the statement took too long (ORCH_DB_TIMEOUT_MS), or was ended by hand",
        ),
        1040 | 1203 | 1226 => (
            Exhausted,
            "the server gives no more connections: others use them all (max_connections, max_user_connections)",
        ),
        1022 | 1048 | 1062 | 1118 | 1153 | 1264 | 1265 | 1292 | 1300 | 1301 | 1364 | 1366
        | 1390 | 1406 | 1411 | 1690 | 3819 | 4025 => (Data, "the row cannot be stored"),
        1290 | 1792 | 1836 => (
            Unavailable,
            "the server is read-only: does ORCH_DB_URL name a replica?",
        ),
        3 | 1021 | 1026 | 1030 | 1114 | 1534 => {
            (Unavailable, "the server cannot write: is its disk full?")
        }
        1045 | 1129 | 1130 | 1251 | 1275 | 1698 | 1820 | 1862 | 3118 | 4151 => (
            Unavailable,
            "the server does not let us in: see user and password of ORCH_DB_URL, and from where the user may come",
        ),
        1044 | 1142 | 1143 | 1227 | 1370 => (
            Unavailable,
            "the user of ORCH_DB_URL may not do that: it needs SELECT, INSERT, UPDATE and DELETE on the ledger's \
             tables, and CREATE to make them",
        ),
        1049 => (
            Unavailable,
            "the database that ORCH_DB_URL names is not there: create it",
        ),
        1046 => (Unavailable, "ORCH_DB_URL names no database"),
        1146 => (
            Unavailable,
            "the ledger's table (ORCH_ERROR_TABLE) is gone: drop its migrations table too and restart, and it is made \
             anew",
        ),
        1054 | 1176 => (
            Unavailable,
            "the ledger's table was changed, or made by another version (ORCH_ERROR_TABLE)",
        ),
        1064 | 1273 => (
            Unavailable,
            "the server does not understand a statement: MariaDB 10.6 or MySQL 8.0.20 is needed at least",
        ),
        1461 => (
            Unavailable,
            "the server keeps too many prepared statements: raise its max_prepared_stmt_count",
        ),
        1598 | 1665 => (
            Unavailable,
            "the server's binlog_format must be ROW or MIXED",
        ),
        3159 => (
            Unavailable,
            "the server wants TLS: add ssl-mode=REQUIRED to ORCH_DB_URL",
        ),
        1047 => (Unavailable, "the node is not part of its cluster"),
        _ if ends_connection(number) => (Unavailable, "the server has ended the connection"),
        _ => (Unavailable, "the server refuses: see its log"),
    }
}

/// What is wrong with `ORCH_DB_URL`, without showing it.
pub(super) fn bad_url(what: &str) -> TrackerError {
    TrackerError {
        message: format!(
            "ORCH_DB_URL {what}: it should look like mysql://user:password@host:3306/database"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(number: u16, class: StoreErrorClass, says: &str) {
        let error = numbered(number);
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(says), "{error}");
        assert!(error.message.contains(&number.to_string()), "{error}");
    }

    #[test]
    fn what_to_do_is_told_by_the_number() {
        check(1213, Conflict, "undone");
        check(1205, Timeout, "lock");
        check(1969, Timeout, "ORCH_DB_TIMEOUT_MS");
        check(3024, Timeout, "ORCH_DB_TIMEOUT_MS");
        check(1040, Exhausted, "max_connections");
        check(1203, Exhausted, "max_user_connections");
        check(1290, Unavailable, "replica");
        check(1114, Unavailable, "disk");
        check(1045, Unavailable, "password");
        check(1142, Unavailable, "SELECT, INSERT, UPDATE and DELETE");
        check(1049, Unavailable, "create it");
        check(1665, Unavailable, "binlog_format");
        check(1927, Unavailable, "ended the connection");
        check(9999, Unavailable, "log");
        for number in [1048, 1062, 1153, 1264, 1366, 1406, 4025] {
            check(number, Data, "cannot be stored");
        }
    }

    #[test]
    fn exhaustion_of_ours_is_told_from_that_of_the_server() {
        let error = classified(sqlx::Error::PoolTimedOut);
        assert_eq!(error.class, Exhausted);
        assert!(error.message.contains("in use"), "{error}");
    }
}
