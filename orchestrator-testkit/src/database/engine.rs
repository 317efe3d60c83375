//! In what the two servers differ, as far as SQL and names go.
//!
//! Asked by every file of this folder. How a server is made from its programs is not known here: see
//! `postgres/cluster.rs` and `mariadb/instance.rs`.

use crate::server::End;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Postgres,
    MariaDb,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::MariaDb => "MariaDB",
        }
    }

    pub(crate) fn install(self) -> &'static str {
        match self {
            Self::Postgres => "apt-get install -y postgresql",
            Self::MariaDb => "apt-get install -y mariadb-server",
        }
    }

    /// The variable that names a server of the user's own.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "ORCH_TEST_POSTGRES_URL",
            Self::MariaDb => "ORCH_TEST_MYSQL_URL",
        }
    }

    /// How a URL may begin; the first is how ours do.
    pub(super) fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &["postgres", "postgresql"],
            Self::MariaDb => &["mysql", "mariadb"],
        }
    }

    /// A database that every server has and every user may enter.
    pub(super) fn admin_database(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "information_schema",
        }
    }

    /// Users that may run the server instead of root, in this order.
    pub(super) fn users(self) -> [&'static str; 2] {
        match self {
            Self::Postgres => ["postgres", "nobody"],
            Self::MariaDb => ["mysql", "nobody"],
        }
    }

    /// Ends the server at once, as `pg_ctl stop -m immediate` does: nothing is written back, the next
    /// start recovers. A PostgreSQL that is killed leaves its children and its shared memory behind.
    pub(super) fn end(self) -> End {
        match self {
            Self::Postgres => End::Quit,
            Self::MariaDb => End::Kill,
        }
    }

    /// A prefix of the server's folder.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Postgres => "orchestrator-postgres-",
            Self::MariaDb => "orchestrator-mariadb-",
        }
    }

    pub(super) fn create_database(self, name: &str) -> String {
        match self {
            Self::Postgres => format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")),
            Self::MariaDb => format!(
                "CREATE DATABASE `{}` CHARACTER SET utf8mb4",
                name.replace('`', "``")
            ),
        }
    }

    /// The ids of the connections to a database, but for the one that asks.
    pub(super) fn connections(self, database: &str, condition: &str) -> String {
        let database = database.replace('\'', "''");
        match self {
            Self::Postgres => format!(
                "SELECT pid FROM pg_stat_activity \
                 WHERE datname = '{database}' AND pid <> pg_backend_pid() AND ({condition})"
            ),
            Self::MariaDb => format!(
                "SELECT id FROM information_schema.processlist \
                 WHERE db = '{database}' AND id <> CONNECTION_ID() AND ({condition})"
            ),
        }
    }

    /// Ends one connection; whether it was there is the first value of the answer, or an error.
    pub(super) fn terminate(self, id: &str) -> String {
        match self {
            Self::Postgres => format!("SELECT pg_terminate_backend({id})"),
            Self::MariaDb => format!("KILL CONNECTION {id}"),
        }
    }
}
