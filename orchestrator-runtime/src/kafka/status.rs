//! How a session fares, for health and logs: whether a broker answers, and what is wrong with the source topics.
//! Written by the poll thread and its helper, read by anybody. It decides nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

/// The same error is logged once in this time.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How a session fares.
#[derive(Debug, Default)]
pub struct SessionStatus {
    reachable: AtomicBool,
    problem: Mutex<Option<String>>,
    logged: Mutex<HashMap<i32, (Option<Instant>, u32)>>,
    rebalances: [AtomicU64; 3],
    rate_limited_micros: AtomicU64,
    rounds: AtomicU64,
}

/// The kinds of rebalances, as they are counted.
pub(crate) const REBALANCES: [&str; 3] = ["assign", "revoke", "lost"];

/// What happened since it was last asked for.
#[derive(Debug)]
pub(crate) struct Happened {
    /// Rebalances, by [`REBALANCES`].
    pub(crate) rebalances: [u64; 3],
    /// Time spent waiting for the rate limit.
    pub(crate) rate_limited: Duration,
}

impl SessionStatus {
    /// Whether a broker answered the last time one was needed. False until the first answer.
    pub fn broker_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// What is wrong with the source topics, if anything.
    pub fn problem(&self) -> Option<String> {
        self.lock_problem().clone()
    }

    /// How often the poll thread has come round.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// The poll thread has come round.
    pub(crate) fn came_round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// A rebalance callback ran.
    pub(crate) fn rebalanced(&self, assign: bool, lost: bool) {
        let kind = match (assign, lost) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        self.rebalances[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// The rate limit allows the next record only after so long.
    pub(crate) fn rate_limited(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.rate_limited_micros
            .fetch_add(micros, Ordering::Relaxed);
    }

    /// What happened since this was last asked for; there is one who asks.
    pub(crate) fn happened(&self) -> Happened {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Happened {
            rebalances: self.rebalances.each_ref().map(take),
            rate_limited: Duration::from_micros(take(&self.rate_limited_micros)),
        }
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        if self.reachable.swap(reachable, Ordering::Relaxed) != reachable {
            if reachable {
                tracing::info!("the brokers can be reached");
            } else {
                tracing::warn!("no broker can be reached; trying on");
            }
        }
    }

    pub(crate) fn set_problem(&self, problem: Option<String>) {
        let mut current = self.lock_problem();
        if *current != problem {
            match &problem {
                Some(problem) => tracing::warn!("{problem}"),
                None => tracing::info!("all source topics can be read"),
            }
            *current = problem;
        }
    }

    /// Logs an error of the consumer, but not every time.
    pub(crate) fn log(&self, code: RDKafkaErrorCode, text: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (at, kept_back) = logged.entry(code as i32).or_default();
        if at.is_none_or(|at| now.duration_since(at) >= LOG_AGAIN_AFTER) {
            tracing::warn!(error = %code, kept_back = *kept_back, "{text}");
            (*at, *kept_back) = (Some(now), 0);
        } else {
            *kept_back += 1;
        }
    }

    fn lock_problem(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
