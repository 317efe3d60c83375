//! `/health`: a snapshot as JSON in the shape of Spring's actuator, with DEGRADED between UP and DOWN. A pure
//! function, called by `http.rs` and by embedding applications; ages are relative to the `now` it is given.

use std::time::{Duration, Instant};

use orchestrator_core::SourcePartition;
use serde_json::{Map, Value, json};

use super::verdict::{silent_for, stalled};
use super::view::{
    Broker, HeldView, LedgerState, PartitionView, Snapshot, WorkerState, WorkerView,
};

/// How many held and how many stalled partitions are listed; all are counted.
const LISTED_MAX: usize = 100;
/// How much of an error's text is shown, in characters.
const ERROR_CHARS_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Up,
    Degraded,
    Down,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Degraded => "DEGRADED",
            Self::Down => "DOWN",
        }
    }
}

struct Component {
    status: Status,
    details: Value,
}

/// What `/health` answers, and whether it is anything but DOWN. `verbose` lists every partition, not only those
/// that are held or stalled.
pub fn health(snapshot: &Snapshot, now: Instant, verbose: bool) -> (bool, Value) {
    let components = [
        ("kafka", kafka(&snapshot.broker, now)),
        ("partitions", partitions(snapshot, now, verbose)),
        ("ledger", ledger(snapshot)),
        ("workers", workers(snapshot, now)),
    ];
    let worst = components.iter().map(|(_, it)| it.status).max();
    let status = worst.unwrap_or(Status::Up);
    let components: Map<String, Value> = components
        .into_iter()
        .map(|(name, it)| {
            let shown = json!({"status": it.status.as_str(), "details": it.details});
            (name.to_owned(), shown)
        })
        .collect();
    let report = json!({
        "status": status.as_str(),
        "pipeline": snapshot.pipeline,
        "components": components,
    });
    (status != Status::Down, report)
}

fn kafka(broker: &Broker, now: Instant) -> Component {
    match broker {
        Broker::Unknown => Component {
            status: Status::Degraded,
            details: json!({"waits_for": "broker (ORCH_BOOTSTRAP_SERVERS)"}),
        },
        Broker::Reachable { since } => Component {
            status: Status::Up,
            details: json!({"reachable_for_seconds": age(*since, now)}),
        },
        Broker::Unreachable { since, error } => Component {
            status: Status::Down,
            details: json!({
                "unreachable_for_seconds": age(*since, now),
                "error": cut(error),
                "remedy": "check the brokers and ORCH_BOOTSTRAP_SERVERS",
            }),
        },
    }
}

fn ledger(snapshot: &Snapshot) -> Component {
    let (status, mut details) = match &snapshot.ledger {
        LedgerState::Off => (Status::Up, json!({"strategy": "NONE"})),
        LedgerState::Up => (Status::Up, json!({})),
        LedgerState::Degraded { reason } => (Status::Degraded, json!({"reason": cut(reason)})),
    };
    if let Some(counters) = &snapshot.ledger_counters {
        details["rows_written"] = counters.rows_written.into();
        details["rows_waiting"] = counters.rows_waiting.into();
        details["rows_dropped"] = counters.rows_dropped.into();
        details["statement_errors"] = counters.statement_errors.into();
    }
    Component { status, details }
}

fn workers(snapshot: &Snapshot, now: Instant) -> Component {
    let mut worst = Status::Up;
    let mut list = Vec::new();
    for (number, worker) in snapshot.workers.iter().enumerate() {
        let silent = silent_for(snapshot, worker, now);
        worst = worst.max(match worker.state {
            WorkerState::Died { .. } | WorkerState::Stopped { .. } => Status::Down,
            WorkerState::Starting { .. } | WorkerState::Draining => Status::Degraded,
            WorkerState::Running if silent.is_some() => Status::Down,
            WorkerState::Running if worker.hung > 0 => Status::Degraded,
            WorkerState::Running => Status::Up,
        });
        list.push(worker_entry(number, worker, silent));
    }
    Component {
        status: worst,
        details: json!({ "list": list }),
    }
}

fn worker_entry(number: usize, worker: &WorkerView, silent: Option<Duration>) -> Value {
    let mut entry = json!({
        "worker": number,
        "state": worker.state.as_str(),
        "partitions": worker.partitions.len(),
        "hung_transforms": worker.hung,
    });
    let detail_name = match worker.state {
        WorkerState::Starting { .. } => "waits_for",
        _ => "why",
    };
    if let Some(detail) = worker.state.detail() {
        entry[detail_name] = cut(detail).into();
    }
    if let Some(silent) = silent {
        entry["poll_thread_silent_for_seconds"] = seconds(silent).into();
    }
    entry
}

fn partitions(snapshot: &Snapshot, now: Instant, verbose: bool) -> Component {
    let (mut held, mut stuck, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let (mut owned, mut held_count, mut stalled_count, mut lag) = (0, 0, 0, None);
    for (number, worker) in snapshot.workers.iter().enumerate() {
        for (partition, view) in &worker.partitions {
            owned += 1;
            if let Some(known) = view.lag {
                *lag.get_or_insert(0) += known;
            }
            if let Some(hold) = &view.held {
                held_count += 1;
                if held.len() < LISTED_MAX {
                    held.push(held_entry(partition, hold, now));
                }
            }
            if verbose {
                all.push(partition_entry(number, partition, view, now));
            }
        }
        for (partition, view, waited) in stalled(snapshot, worker, now) {
            stalled_count += 1;
            if stuck.len() < LISTED_MAX {
                let mut entry = partition_entry(number, partition, view, now);
                entry["stalled_for_seconds"] = seconds(waited).into();
                stuck.push(entry);
            }
        }
    }
    let status = match (stalled_count, held_count) {
        (1.., _) => Status::Down,
        (0, 1..) => Status::Degraded,
        _ => Status::Up,
    };
    let mut details = json!({
        "owned": owned,
        "lag": lag,
        "held_count": held_count,
        "held": held,
        "stalled_count": stalled_count,
        "stalled": stuck,
    });
    if verbose {
        details["list"] = all.into();
    }
    Component { status, details }
}

fn held_entry(partition: &SourcePartition, held: &HeldView, now: Instant) -> Value {
    json!({
        "topic": partition.topic.as_str(),
        "partition": partition.partition,
        "offset": held.offset,
        "reason": held.reason,
        "held_for_seconds": age(held.since, now),
        "next_try_in_seconds": held.next_try.map(|at| seconds(at.saturating_duration_since(now))),
        "attempts": held.attempts,
        "error": cut(&held.error),
        "remedy": held.remedy,
        "bytes": held.bytes,
    })
}

fn partition_entry(
    worker: usize,
    partition: &SourcePartition,
    view: &PartitionView,
    now: Instant,
) -> Value {
    json!({
        "topic": partition.topic.as_str(),
        "partition": partition.partition,
        "worker": worker,
        "next_offset": view.committed,
        "taken_to": view.taken,
        "lag": view.lag,
        "last_progress_seconds_ago": view.last_progress.map(|at| age(at, now)),
        "held": view.held.as_ref().map(|held| held.reason),
    })
}

fn age(since: Instant, now: Instant) -> f64 {
    seconds(now.saturating_duration_since(since))
}

/// With milliseconds, and no more digits than that.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1_000.0
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(ERROR_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
