//! The ledger's table in a database of a test's own, and what lies in it: read by plain SQL on a connection of its
//! own. It knows the table's columns from the migrations, and nothing else of the runtime.

use std::collections::BTreeMap;

use orchestrator_testkit::mariadb::MariaDb;
use orchestrator_testkit::postgres::Postgres;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, MySqlConnection, PgConnection};
use tempfile::TempDir;

use super::truth::{Facts, Place, Wanted};

/// At most so many findings are told one by one.
const TOLD_MAX: usize = 10;

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    MariaDb,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    kind: Kind,
    url: String,
    folder: TempDir,
}

/// A row as it lies there, as far as it is looked at.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Row {
    pub(super) cluster_id: String,
    pub(super) consumer_group: String,
    pub(super) source_topic: String,
    pub(super) source_partition: i32,
    pub(super) source_offset: i64,
    pub(super) record_timestamp_ms: i64,
    pub(super) message_key: Option<Vec<u8>>,
    pub(super) status: String,
    pub(super) attempts: i64,
    pub(super) dedup_key: String,
    pub(super) origin_dedup_key: Option<String>,
    pub(super) error_class: Option<String>,
    pub(super) error_message: Option<String>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) dead_lettered: bool,
    pub(super) passed_at: Option<i64>,
    pub(super) resolved_at: Option<i64>,
}

impl Row {
    /// A row that says this, for tests of the comparison.
    pub(super) fn of(
        facts: Facts,
        (topic, partition, offset): (&str, i32, i64),
        group: &str,
    ) -> Self {
        Self {
            cluster_id: "cluster".to_owned(),
            consumer_group: group.to_owned(),
            source_topic: topic.to_owned(),
            source_partition: partition,
            source_offset: offset,
            record_timestamp_ms: facts.timestamp_ms,
            message_key: facts.key,
            status: facts.status,
            attempts: facts.attempts,
            dedup_key: facts.dedup_key,
            origin_dedup_key: facts.origin_dedup_key,
            error_message: facts.error_class.clone(),
            error_class: facts.error_class,
            payload: facts.payload,
            dead_lettered: facts.dead_lettered,
            passed_at: facts.passed.then_some(1),
            resolved_at: facts.resolved.then_some(1),
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            status: self.status.clone(),
            passed: self.passed_at.is_some(),
            resolved: self.resolved_at.is_some(),
            error_class: self.error_class.clone(),
            attempts: self.attempts,
            dead_lettered: self.dead_lettered,
            dedup_key: self.dedup_key.clone(),
            origin_dedup_key: self.origin_dedup_key.clone(),
            timestamp_ms: self.record_timestamp_ms,
            key: self.message_key.clone(),
            payload: self.payload.clone(),
        }
    }

    fn place(&self) -> Place {
        (
            self.source_topic.clone(),
            self.source_partition,
            self.source_offset,
        )
    }
}

impl Table {
    /// In a database of its own; on the servers that all tests share.
    pub(crate) fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = match kind {
            Kind::Sqlite => format!("sqlite://{}", folder.path().join("ledger.db").display()),
            Kind::Postgres => Postgres::shared().create_database("ledger").unwrap(),
            Kind::MariaDb => MariaDb::shared().create_database("ledger").unwrap(),
        };
        Self { kind, url, folder }
    }

    /// In a database of its own on this server.
    pub(crate) fn on(server: &Postgres) -> Self {
        Self {
            kind: Kind::Postgres,
            url: server.create_database("ledger").unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// `ORCH_DB_URL`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The name of its database.
    pub(crate) fn database(&self) -> &str {
        let name = self.url.rsplit('/').next().unwrap_or_default();
        name.split('?').next().unwrap_or_default()
    }

    /// A folder of its own, for the journal.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Whether there is anything of the ledger at all.
    pub(crate) fn is_untouched(&self) -> bool {
        assert_eq!(self.kind, Kind::Sqlite, "only a file can be untouched");
        !self.folder.path().join("ledger.db").exists()
    }

    /// All rows; none before the table is there.
    pub(crate) async fn rows(&self) -> Result<Vec<Row>, sqlx::Error> {
        const ALL: &str = "SELECT * FROM event_failures";
        match self.kind {
            Kind::Sqlite => {
                let file = self.folder.path().join("ledger.db");
                let options = SqliteConnectOptions::new().filename(file).read_only(true);
                let mut connection = options.connect().await?;
                let rows = sqlx::query_as(ALL).fetch_all(&mut connection).await;
                connection.close().await?;
                rows
            }
            Kind::Postgres => {
                let mut connection = PgConnection::connect(&self.url).await?;
                let rows = sqlx::query_as(ALL).fetch_all(&mut connection).await;
                connection.close().await?;
                rows
            }
            Kind::MariaDb => {
                let mut connection = MySqlConnection::connect(&self.url).await?;
                let rows = sqlx::query_as(ALL).fetch_all(&mut connection).await;
                connection.close().await?;
                rows
            }
        }
    }
}

/// How rows that are not wrong differ from what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Records without the row that they have to have; of a failure it may be one that was noted before it failed.
    pub(crate) missing: usize,
    /// Records of whose end a process that was cut short did not tell.
    pub(crate) untold: usize,
}

/// Compares rows with the truth, one by one.
///
/// # Errors
/// What is wrong, beyond rows that are missing.
pub(crate) fn compare(
    wanted: &BTreeMap<Place, Wanted>,
    rows: &[Row],
    group: &str,
) -> Result<Judged, String> {
    let mut findings = Findings::default();
    let mut found: BTreeMap<Place, &Row> = BTreeMap::new();
    for row in rows {
        if let Some(other) = found.insert(row.place(), row) {
            findings.add("doubled", format!("{row:?} and {other:?}"));
        }
        if row.consumer_group != group
            || row.cluster_id != rows[0].cluster_id
            || row.cluster_id.is_empty()
        {
            findings.add("of another", format!("{row:?}"));
        }
        if row.error_class.is_some() != row.error_message.is_some() {
            findings.add("class without message", format!("{row:?}"));
        }
        if !wanted.contains_key(&row.place()) {
            findings.add("extra", format!("{row:?} is of no record"));
        }
    }
    let mut judged = Judged::default();
    for (place, wanted) in wanted {
        let facts = found.get(place).map(|row| row.facts());
        match wanted.iter().position(|one| *one == facts) {
            Some(0) => {}
            Some(_) => judged.untold += 1,
            None if is_given_up(facts.as_ref(), wanted) => judged.missing += 1,
            None => {
                let (found, wanted) = (said(&facts), wanted.iter().map(said));
                let wanted: Vec<_> = wanted.collect();
                findings.add(
                    "wrong",
                    format!("{place:?} is {found}, not {}", wanted.join(" or ")),
                );
            }
        }
    }
    if findings.counts.is_empty() {
        return Ok(judged);
    }
    let Findings { counts, told } = findings;
    Err(format!(
        "of {} records with {} rows: {counts:?}, {judged:?}\n{}",
        wanted.len(),
        rows.len(),
        told.join("\n")
    ))
}

fn said(row: &Option<Facts>) -> String {
    let Some(row) = row else {
        return "no row".to_owned();
    };
    let text = |bytes: &Option<Vec<u8>>| {
        bytes
            .as_ref()
            .map(|b| String::from_utf8_lossy(b).into_owned())
    };
    let Facts { key, payload, .. } = row;
    let (key, payload) = (text(key), text(payload));
    let row = Facts {
        key: None,
        payload: None,
        ..row.clone()
    };
    format!("{row:?} of {key:?}, {payload:?}")
}

/// Whether what is found only lacks a row that was given up.
fn is_given_up(found: Option<&Facts>, wanted: &Wanted) -> bool {
    let Some(found) = found else {
        return true;
    };
    let is_failure = |wanted: &Option<Facts>| matches!(wanted, Some(row) if row.status == "FAILED");
    matches!(&*found.status, "RECEIVED" | "UNKNOWN") && wanted.iter().all(is_failure)
}

#[derive(Default)]
struct Findings {
    counts: BTreeMap<&'static str, usize>,
    told: Vec<String>,
}

impl Findings {
    fn add(&mut self, kind: &'static str, text: String) {
        *self.counts.entry(kind).or_default() += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{kind}: {text}"));
        }
    }
}
