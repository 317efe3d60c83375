//! The probes' decisions: pure functions of a snapshot and a moment, called by `http.rs` and by embedding
//! applications. They never touch the live state.

use std::time::{Duration, Instant};

use orchestrator_core::SourcePartition;

use super::view::{Broker, PartitionView, Snapshot, WorkerState, WorkerView};

/// The answer of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What was looked at, the good and the bad.
    pub checks: Vec<Check>,
}

/// One thing a probe looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is: `worker 0`, `orders-3`.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

impl Verdict {
    /// Whether all is well.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

/// Whether the process is alive: no worker has died, every poll thread comes round, and every partition that flows
/// and has taken records makes progress within the stall time-out. Held partitions do not count, and nothing is
/// stalled while no broker answers or a worker drains: a restart would help neither.
pub fn livez(snapshot: &Snapshot, now: Instant) -> Verdict {
    let mut checks = Vec::new();
    for (number, worker) in snapshot.workers.iter().enumerate() {
        checks.push(worker_lives(snapshot, number, worker, now));
        checks.extend(
            stalled(snapshot, worker, now).map(|(partition, _, since)| Check {
                name: partition.to_string(),
                ok: false,
                detail: format!(
                    "records are waiting, and none was committed for {} s (ORCH_STALL_TIMEOUT_MS)",
                    since.as_secs()
                ),
            }),
        );
    }
    Verdict { checks }
}

/// Whether every worker is in the group with a producer that is initialised. One without partitions is ready.
pub fn readyz(snapshot: &Snapshot) -> Verdict {
    let checks = snapshot
        .workers
        .iter()
        .enumerate()
        .map(|(number, worker)| Check {
            name: format!("worker {number}"),
            ok: worker.state == WorkerState::Running,
            detail: describe(worker),
        });
    Verdict {
        checks: checks.collect(),
    }
}

fn worker_lives(snapshot: &Snapshot, number: usize, worker: &WorkerView, now: Instant) -> Check {
    let silent = silent_for(snapshot, worker, now);
    let died = matches!(worker.state, WorkerState::Died { .. });
    Check {
        name: format!("worker {number}"),
        ok: !died && silent.is_none(),
        detail: match silent {
            Some(silent) => format!(
                "its poll thread has not come round for {} s (ORCH_STALL_TIMEOUT_MS)",
                silent.as_secs()
            ),
            None => describe(worker),
        },
    }
}

fn describe(worker: &WorkerView) -> String {
    let mut text = worker.state.as_str().to_ascii_lowercase();
    if let Some(detail) = worker.state.detail() {
        let joint = match worker.state {
            WorkerState::Starting { .. } => ", waits for ",
            _ => ": ",
        };
        text.push_str(joint);
        text.push_str(detail);
    }
    if worker.hung > 0 {
        text.push_str(&format!(", {} transforms hang", worker.hung));
    }
    text
}

/// For how long the poll thread of a running worker was not seen, if that is too long.
pub(super) fn silent_for(
    snapshot: &Snapshot,
    worker: &WorkerView,
    now: Instant,
) -> Option<Duration> {
    if worker.state != WorkerState::Running {
        return None;
    }
    let silent = now.saturating_duration_since(worker.last_poll?);
    (silent >= snapshot.stall_timeout).then_some(silent)
}

/// The stalled partitions of a worker, and for how long each has been.
pub(super) fn stalled<'a>(
    snapshot: &Snapshot,
    worker: &'a WorkerView,
    now: Instant,
) -> impl Iterator<Item = (&'a SourcePartition, &'a PartitionView, Duration)> {
    // An outage stops the clock, and its end starts it anew.
    let (counts, back_since) = match snapshot.broker {
        Broker::Unknown => (true, None),
        Broker::Reachable { since } => (true, Some(since)),
        Broker::Unreachable { .. } => (false, None),
    };
    let counts = counts && worker.state == WorkerState::Running;
    let limit = snapshot.stall_timeout;
    worker.partitions.iter().filter_map(move |(name, view)| {
        let waiting_since = view.waiting_since.filter(|_| counts)?;
        let since = back_since.map_or(waiting_since, |back| back.max(waiting_since));
        let waited = now.saturating_duration_since(since);
        (waited >= limit).then_some((name, view, waited))
    })
}
