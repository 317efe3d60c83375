//! What is swept: settings, sizes, ledgers, costs. Each point is the program with something set.

/// Points that are shown together.
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) points: Vec<Point>,
}

/// The program, with something set.
#[derive(Clone, Debug, Default)]
pub(super) struct Point {
    pub(super) label: String,
    pub(super) env: Vec<(String, String)>,
    /// Bytes of an order, if others than usual.
    pub(super) record_size: Option<usize>,
    /// A share of the usual number of orders.
    pub(super) share: Option<f64>,
    pub(super) partitions: Option<i32>,
    /// Run costly-app in the place of example-app.
    pub(super) costly: bool,
    pub(super) database: Option<Database>,
}

/// Where the ledger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Database {
    Sqlite,
    Postgres,
    MariaDb,
}

fn setting(key: &str, values: &[&str]) -> Vec<Point> {
    let point = |value: &&str| Point {
        label: (*value).to_owned(),
        env: vec![(key.to_owned(), (*value).to_owned())],
        ..Point::default()
    };
    values.iter().map(point).collect()
}

/// All axes.
pub(super) fn axes() -> Vec<Axis> {
    let size = |label: &str, bytes: usize, share: f64| Point {
        label: label.to_owned(),
        record_size: Some(bytes),
        share: Some(share),
        costly: true,
        ..Point::default()
    };
    let cost = |label: &str, key: &str, value: &str, share, partitions| Point {
        label: label.to_owned(),
        env: vec![
            ("ORCH_TRANSFORM_CONCURRENCY".to_owned(), "256".to_owned()),
            (key.to_owned(), value.to_owned()),
        ],
        share: Some(share),
        partitions: Some(partitions),
        costly: true,
        ..Point::default()
    };
    vec![
        Axis {
            name: "batch",
            about: "`ORCH_BATCH_MAX_RECORDS`",
            points: setting(
                "ORCH_BATCH_MAX_RECORDS",
                &["100", "500", "1000", "2000", "5000", "10000"],
            ),
        },
        Axis {
            name: "commit",
            about: "`ORCH_COMMIT_MAX_RECORDS`",
            points: setting(
                "ORCH_COMMIT_MAX_RECORDS",
                &["1000", "5000", "10000", "20000", "50000"],
            ),
        },
        Axis {
            name: "linger",
            about: "`ORCH_KAFKA_PRODUCER_LINGER_MS`",
            points: setting(
                "ORCH_KAFKA_PRODUCER_LINGER_MS",
                &["0", "1", "5", "20", "50"],
            ),
        },
        Axis {
            name: "workers",
            about: "`ORCH_WORKERS`",
            points: setting("ORCH_WORKERS", &["1", "2", "4"]),
        },
        Axis {
            name: "size",
            about: "bytes of a record, copied",
            points: vec![
                size("100 B", 100, 1.0),
                size("300 B", 300, 1.0),
                size("1 kB", 1_000, 0.6),
                size("10 kB", 10_000, 0.1),
                size("100 kB", 100_000, 0.01),
            ],
        },
        Axis {
            name: "cost",
            about: "what the transform of a record costs, `ORCH_TRANSFORM_CONCURRENCY=256`",
            points: vec![
                cost("nothing", "COST_CPU_US", "0", 1.0, 8),
                cost("50 us of CPU", "COST_CPU_US", "50", 0.1, 8),
                cost("5 ms of waiting", "COST_WAIT_MS", "5", 0.3, 8),
                cost(
                    "5 ms of waiting, one partition",
                    "COST_WAIT_MS",
                    "5",
                    0.2,
                    1,
                ),
            ],
        },
        Axis {
            name: "ledger",
            about: "strategy, mode and database of the failure ledger",
            points: ledgers(),
        },
    ]
}

fn ledgers() -> Vec<Point> {
    let mut points = Vec::new();
    for mode in ["ATOMIC", "SKIP_AND_LOG"] {
        for (strategy, share) in [
            ("NONE", 1.0),
            ("LIGHTWEIGHT", 1.0),
            ("OUTBOX", 0.4),
            ("RELIABLE", 0.04),
        ] {
            let databases: &[Option<Database>] = match strategy {
                "NONE" => &[None],
                _ => &[
                    Some(Database::Sqlite),
                    Some(Database::Postgres),
                    Some(Database::MariaDb),
                ],
            };
            for database in databases {
                let on = database.map_or(String::new(), |it| format!(" on {it:?}"));
                points.push(Point {
                    label: format!("{strategy}{on}, {mode}"),
                    env: vec![
                        ("ORCH_FAILURE_MODE".to_owned(), mode.to_owned()),
                        ("ORCH_DB_STRATEGY".to_owned(), strategy.to_owned()),
                    ],
                    share: Some(share),
                    database: *database,
                    ..Point::default()
                });
            }
        }
    }
    points
}
