//! How a session fares, for health and logs: whether a broker answers, and what is wrong with the source topics.
//! Written by the poll thread and its helper, read by anybody. It decides nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
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
