//! What is measured of the ledger. Data only.

/// One order of so many fails in the faulty source: 0.1 %.
pub(super) const FAULT_EVERY: u64 = 1000;
/// As many as a statement a record can be measured on in about a minute.
pub(super) const FEW_RECORDS: u64 = 100_000;

/// Where the rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Database {
    None,
    Sqlite,
    Postgres,
    /// A PostgreSQL server that is down.
    Down,
}

/// Statements without Kafka and without the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// Insert and update in chunks of 1,000, one connection.
    Pair,
    /// Insert and update record by record, one connection.
    Serial,
}

/// One line of the result.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) env: &'static [(&'static str, &'static str)],
    pub(super) database: Database,
    pub(super) raw: Option<Raw>,
    /// Whether one order of a thousand fails for good.
    pub(super) faulty: bool,
    pub(super) rows_of_successes: bool,
    /// Whether a statement a record would take too long for all of them.
    pub(super) few: bool,
    /// What it is compared with.
    pub(super) against: &'static [&'static str],
}

const PLAIN: Scenario = Scenario {
    name: "",
    about: "",
    env: &[],
    database: Database::None,
    raw: None,
    faulty: false,
    rows_of_successes: false,
    few: false,
    against: &[],
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "none",
        about: "no ledger",
        env: &[("ORCH_DB_STRATEGY", "NONE")],
        ..PLAIN
    },
    Scenario {
        name: "none-faulty",
        about: "no ledger, 0.1 % of the orders fail, SKIP_AND_LOG",
        env: &[
            ("ORCH_DB_STRATEGY", "NONE"),
            ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
        ],
        faulty: true,
        ..PLAIN
    },
    Scenario {
        name: "lightweight-sqlite-faulty",
        about: "LIGHTWEIGHT on SQLite, 0.1 % of the orders fail, SKIP_AND_LOG",
        env: &[
            ("ORCH_DB_STRATEGY", "LIGHTWEIGHT"),
            ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
        ],
        database: Database::Sqlite,
        faulty: true,
        against: &["none-faulty"],
        ..PLAIN
    },
    Scenario {
        name: "lightweight-postgres-faulty",
        about: "LIGHTWEIGHT on PostgreSQL, 0.1 % of the orders fail, SKIP_AND_LOG",
        env: &[
            ("ORCH_DB_STRATEGY", "LIGHTWEIGHT"),
            ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
        ],
        database: Database::Postgres,
        faulty: true,
        against: &["none-faulty"],
        ..PLAIN
    },
    Scenario {
        name: "outbox-down",
        about: "OUTBOX with the database down, Kafka goes on",
        env: &[("ORCH_DB_STRATEGY", "OUTBOX")],
        database: Database::Down,
        against: &["none"],
        ..PLAIN
    },
    Scenario {
        name: "lightweight-down-faulty",
        about: "LIGHTWEIGHT with the database down, 0.1 % of the orders fail, SKIP_AND_LOG",
        env: &[
            ("ORCH_DB_STRATEGY", "LIGHTWEIGHT"),
            ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
        ],
        database: Database::Down,
        faulty: true,
        against: &["none-faulty"],
        ..PLAIN
    },
    Scenario {
        name: "raw-postgres",
        about: "insert and update of 1,000 rows at a time, one connection, no Kafka",
        database: Database::Postgres,
        raw: Some(Raw::Pair),
        ..PLAIN
    },
    Scenario {
        name: "outbox-postgres",
        about: "OUTBOX on PostgreSQL",
        env: &[("ORCH_DB_STRATEGY", "OUTBOX")],
        database: Database::Postgres,
        rows_of_successes: true,
        against: &["raw-postgres"],
        ..PLAIN
    },
    Scenario {
        name: "outbox-sqlite",
        about: "OUTBOX on SQLite",
        env: &[("ORCH_DB_STRATEGY", "OUTBOX")],
        database: Database::Sqlite,
        ..PLAIN
    },
    Scenario {
        name: "raw-serial-postgres",
        about: "insert and update of one row at a time, one connection, no Kafka",
        database: Database::Postgres,
        raw: Some(Raw::Serial),
        few: true,
        ..PLAIN
    },
    Scenario {
        name: "reliable-postgres",
        about: "RELIABLE on PostgreSQL",
        env: &[("ORCH_DB_STRATEGY", "RELIABLE")],
        database: Database::Postgres,
        rows_of_successes: true,
        few: true,
        against: &["raw-serial-postgres"],
        ..PLAIN
    },
];
