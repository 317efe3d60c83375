//! What the ledger has to hold: computed from the source topic and from what the test did, by the words of the
//! documentation alone. It must never call the runtime, nor ask the table.

use std::collections::BTreeMap;

use orchestrator_testkit::orders::expected_output;
use orchestrator_testkit::reader::ReadRecord;

/// `ORCH_MAX_ATTEMPTS`, which no test changes.
const MAX_ATTEMPTS: i64 = 3;

/// `ORCH_DB_STRATEGY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Outbox,
    Reliable,
    Lightweight,
    None,
}

impl Strategy {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Outbox => "OUTBOX",
            Self::Reliable => "RELIABLE",
            Self::Lightweight => "LIGHTWEIGHT",
            Self::None => "NONE",
        }
    }

    /// Whether every record has a row.
    pub(crate) fn notes_all(self) -> bool {
        matches!(self, Self::Outbox | Self::Reliable)
    }
}

/// What becomes of records that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They are recorded and passed.
    SkipAndLog,
    /// They become dead letters.
    AtomicDlq,
    /// Their partition is held.
    AtomicBlock,
}

/// How the ledger is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ledger {
    pub(crate) strategy: Strategy,
    pub(crate) mode: Mode,
    /// `ORCH_STORE_PAYLOAD=ALL`; else only failures keep theirs.
    pub(crate) keeps_all_payloads: bool,
}

/// Next offsets by partition.
pub(crate) type Offsets = BTreeMap<i32, i64>;

/// What a process, or several that end in peace, did to the partitions.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Where it began.
    pub(crate) from: Offsets,
    /// What it had committed in the end.
    pub(crate) until: Offsets,
    /// Whether it failed as records asked it to by `x-fault`.
    pub(crate) faults: bool,
    /// It was cut short: what was passed last may not have been told the ledger.
    pub(crate) killed: bool,
    /// The safeguard settles what it did not tell, and what nobody works on for long.
    pub(crate) settled: bool,
    /// It was left at rest with all that it could take: what it holds is noted.
    pub(crate) at_rest: bool,
}

impl Life {
    /// One that took up where the group was, which is the beginning if nothing is said.
    pub(crate) fn new(from: &Offsets, until: Offsets) -> Self {
        Self {
            from: from.clone(),
            until,
            faults: true,
            killed: false,
            settled: false,
            at_rest: false,
        }
    }
}

/// What is compared of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) status: String,
    pub(crate) passed: bool,
    pub(crate) resolved: bool,
    pub(crate) error_class: Option<String>,
    pub(crate) attempts: i64,
    pub(crate) dead_lettered: bool,
    pub(crate) dedup_key: String,
    pub(crate) origin_dedup_key: Option<String>,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
}

/// Where a record stands.
pub(crate) type Place = (String, i32, i64);

/// What a record's row may be; the first is what it is unless a process was cut short. `None` is no row.
pub(crate) type Wanted = Vec<Option<Facts>>;

/// What the records of the source topic have to leave in the ledger after these lives.
pub(crate) fn truth(
    records: &[ReadRecord],
    ledger: Ledger,
    lives: &[Life],
) -> BTreeMap<Place, Wanted> {
    let wanted = records.iter().map(|record| {
        let place = (record.topic.to_string(), record.partition, record.offset);
        let mut wanted = vec![None];
        for life in lives {
            let mut next = Wanted::new();
            let found = wanted
                .into_iter()
                .flat_map(|row| found(row, record, ledger, life));
            for row in found {
                for state in after(row, record, ledger, life) {
                    if !next.contains(&state) {
                        next.push(state);
                    }
                }
            }
            wanted = next;
        }
        (place, wanted)
    });
    wanted.collect()
}

/// What whoever passes the record may find in the ledger, given what was there when this life began.
fn found(row: Option<Facts>, record: &ReadRecord, ledger: Ledger, life: &Life) -> Wanted {
    let mut found = vec![row.clone()];
    if life.settled {
        // It was killed over the record, and the next one took so long that the row was given up for stale.
        found.push(Some(Facts {
            status: "FAILED".to_owned(),
            error_class: Some("stale".to_owned()),
            ..received(row, record, ledger)
        }));
    }
    found
}

/// What may be in the ledger after this life, given what was there before.
fn after(row: Option<Facts>, record: &ReadRecord, ledger: Ledger, life: &Life) -> Wanted {
    let at = |offsets: &Offsets| offsets.get(&record.partition).copied().unwrap_or(0);
    let (from, until) = (at(&life.from), at(&life.until));
    if ledger.strategy == Strategy::None || record.offset < from {
        return vec![row];
    }
    let noted = match ledger.strategy.notes_all() {
        true => Some(received(row.clone(), record, ledger)),
        false => row.clone(),
    };
    let failed = failure(record, life.faults);
    let failed = failed.map(|failure| failed_row(record, failure, ledger.mode));
    let provisional = failed.clone().map(|failed| Facts {
        passed: false,
        ..failed
    });
    if record.offset >= until {
        // The first that is not passed is in hand when all is at rest. Others may be, and may have been written as
        // failures already; under BLOCK nothing is.
        if life.at_rest && record.offset == until {
            return vec![noted];
        }
        let provisional = provisional.filter(|_| ledger.mode != Mode::AtomicBlock);
        let provisional = provisional.map(Some);
        return [row, noted].into_iter().chain(provisional).collect();
    }
    let (told, untold) = match failed {
        Some(failed) => (Some(failed), provisional),
        None => (noted.clone().map(succeeded), noted),
    };
    match life.killed {
        true => vec![told, untold.map(|row| left(row, ledger, life))],
        false => vec![told],
    }
}

/// The row is made, or made new.
fn received(row: Option<Facts>, record: &ReadRecord, ledger: Ledger) -> Facts {
    let row = row.unwrap_or_else(|| Facts {
        payload: record.value.clone().filter(|_| ledger.keeps_all_payloads),
        ..fresh(record)
    });
    Facts {
        status: "RECEIVED".to_owned(),
        passed: false,
        ..row
    }
}

/// It was passed as a success; one that was passed as a failure before has no row of this batch to change.
fn succeeded(row: Facts) -> Facts {
    match (row.status.as_str(), row.passed) {
        ("RECEIVED", _) | ("FAILED", false) => Facts {
            status: "SUCCESS".to_owned(),
            passed: true,
            resolved: row.resolved || row.error_class.is_some(),
            ..row
        },
        _ => row,
    }
}

/// What was passed and not told stays as it is, until somebody settles it who cannot know more than that.
fn left(row: Facts, ledger: Ledger, life: &Life) -> Facts {
    if !life.settled || row.status != "RECEIVED" {
        return row;
    }
    let status = match ledger.mode {
        Mode::AtomicBlock => "SUCCESS",
        Mode::SkipAndLog | Mode::AtomicDlq => "UNKNOWN",
    };
    Facts {
        status: status.to_owned(),
        passed: true,
        ..row
    }
}

fn failed_row(record: &ReadRecord, (class, attempts): (&str, i64), mode: Mode) -> Facts {
    Facts {
        status: "FAILED".to_owned(),
        passed: true,
        error_class: Some(class.to_owned()),
        attempts,
        dead_lettered: mode == Mode::AtomicDlq,
        payload: record.value.clone(),
        ..fresh(record)
    }
}

fn fresh(record: &ReadRecord) -> Facts {
    let ReadRecord {
        topic,
        partition,
        offset,
        ..
    } = record;
    let own = record.header("orchestrator.dedup-key").map(str::to_owned);
    Facts {
        status: String::new(),
        passed: false,
        resolved: false,
        error_class: None,
        attempts: 0,
        dead_lettered: false,
        dedup_key: own
            .clone()
            .unwrap_or_else(|| format!("{topic}-{partition}-{offset}")),
        origin_dedup_key: own,
        timestamp_ms: record.timestamp.unwrap_or(-1),
        key: record.key.clone(),
        payload: None,
    }
}

/// As what, and at which attempt, a record fails for good; `None` if it succeeds.
fn failure(record: &ReadRecord, faults: bool) -> Option<(&'static str, i64)> {
    let value = record.value.as_deref();
    if value.and_then(expected_output).is_none() {
        return Some(("permanent", 1));
    }
    let fault = record.header("x-fault").filter(|_| faults)?;
    match fault.split_once(':').unwrap_or((fault, "")) {
        ("permanent" | "panic", _) => Some(("permanent", 1)),
        ("transient", times) => {
            let times: i64 = times.parse().unwrap();
            (times >= MAX_ATTEMPTS).then_some(("transient", MAX_ATTEMPTS))
        }
        ("infrastructure", _) => None,
        other => panic!("{other:?} is not known here"),
    }
}
