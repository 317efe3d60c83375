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
    /// It was killed: what was passed last may not have been told the ledger.
    pub(crate) killed: bool,
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
    strategy: Strategy,
    mode: Mode,
    lives: &[Life],
) -> BTreeMap<Place, Wanted> {
    let wanted = records.iter().map(|record| {
        let place = (record.topic.to_string(), record.partition, record.offset);
        let mut wanted = vec![None];
        for life in lives {
            wanted = after(wanted, record, strategy, mode, life);
        }
        (place, wanted)
    });
    wanted.collect()
}

/// What may be in the ledger after this life, given what may have been there before.
fn after(
    before: Wanted,
    record: &ReadRecord,
    strategy: Strategy,
    mode: Mode,
    life: &Life,
) -> Wanted {
    let at = |offsets: &Offsets| offsets.get(&record.partition).copied().unwrap_or(0);
    let (from, until) = (at(&life.from), at(&life.until));
    if strategy == Strategy::None || record.offset < from {
        return before;
    }
    let failure = failure(record, life.faults);
    let is_passed = record.offset < until;
    let mut wanted = Vec::new();
    for row in before {
        let noted = match strategy.notes_all() {
            true => Some(received(row.clone(), record)),
            false => row.clone(),
        };
        let states = match &failure {
            _ if !is_passed => {
                let failed = failure.as_ref().filter(|_| mode != Mode::AtomicBlock);
                let failed = failed.map(|failure| Some(failed_row(record, failure, mode, false)));
                // The first that is not passed is in hand when it is held.
                match life.at_rest && record.offset == until {
                    true => vec![noted],
                    false => [row, noted].into_iter().chain(failed).collect(),
                }
            }
            Some(failure) => {
                let mut states = vec![Some(failed_row(record, failure, mode, true))];
                if life.killed {
                    states.push(Some(failed_row(record, failure, mode, false)));
                }
                states
            }
            None => {
                let mut states = vec![noted.clone().map(succeeded)];
                if life.killed {
                    states.push(noted);
                }
                states
            }
        };
        for state in states {
            if !wanted.contains(&state) {
                wanted.push(state);
            }
        }
    }
    wanted
}

/// The row is made, or made new.
fn received(row: Option<Facts>, record: &ReadRecord) -> Facts {
    let row = row.unwrap_or_else(|| fresh(record));
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

fn failed_row(
    record: &ReadRecord,
    (class, attempts): &(&str, i64),
    mode: Mode,
    passed: bool,
) -> Facts {
    Facts {
        status: "FAILED".to_owned(),
        passed,
        error_class: Some((*class).to_owned()),
        attempts: *attempts,
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
