//! A failure tracker that posts failures to a webhook: a complete `FailureTracker`, with a bounded queue, time-outs and
//! retries. It posts what was passed as a failure, and nothing else: what failed and then succeeded after all (its
//! transaction was aborted, say) is not worth anybody's sleep.
//!
//! A failure is noted in memory before the commit that passes its record, and posted after it, again and again until
//! the webhook has taken it; so it comes at least once, unless the process is killed in between. The webhook tells
//! repeats by `dedup_key`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orchestrator_runtime::core::{
    Backoff, BoxFuture, FailureRecord, FailureTracker, Passed, SourcePartition, SourcePosition,
    TrackerError,
};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::http::Webhook;

/// No more failures are taken while so many wait for the webhook. What is noted comes on top: it is bounded by the units
/// of work under way, and must not be counted, or a unit with more failures than that could never be passed.
const MAX_WAITING: usize = 10_000;
/// So many go into one request.
const MAX_IN_A_REQUEST: usize = 100;
/// The wait before a request is tried again.
const RETRY: Backoff = Backoff {
    base: Duration::from_millis(100),
    max: Duration::from_secs(10),
};
/// A commit that was under way when its partition was taken away is told of within this time.
const ORPHANS_KEPT: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct WebhookTracker {
    shared: Arc<Shared>,
    _posting: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    max_waiting: usize,
    /// Rung when there is something to post.
    more: Notify,
    /// Rung when the webhook has taken something.
    fewer: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Failures that are not known to be passed.
    noted: BTreeMap<SourcePosition, Noted>,
    /// What the webhook is to be told, the oldest first. They leave only when it has taken them.
    passed: VecDeque<Value>,
}

#[derive(Debug)]
struct Noted {
    failure: Value,
    /// Since when its partition is another's.
    orphaned: Option<Instant>,
}

impl WebhookTracker {
    /// Posts to `webhook`. Needs a tokio runtime, in which it keeps a task for as long as it lives.
    pub fn start(webhook: Webhook) -> Self {
        Self::with_room_for(MAX_WAITING, webhook)
    }

    /// The same with another bound.
    pub fn with_room_for(max_waiting: usize, webhook: Webhook) -> Self {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            max_waiting,
            more: Notify::new(),
            fewer: Notify::new(),
        });
        let posting = tokio::spawn(shared.clone().keep_posting(webhook));
        Self {
            shared,
            _posting: AbortOnDropHandle::new(posting),
        }
    }
}

/// No method waits for the webhook but `flush`, so that a unit of work is not held up by it.
impl FailureTracker for WebhookTracker {
    /// Keeps what is noted: a commit that was under way may still be told of. But not for ever.
    fn revoked<'a>(&'a self, partitions: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
        let now = Instant::now();
        for (position, noted) in &mut self.shared.waiting().noted {
            if partitions.contains(&position.partition) {
                noted.orphaned.get_or_insert(now);
            }
        }
        Box::pin(std::future::ready(()))
    }

    /// Called before the commit, and again whenever the same record fails again: there is one entry of each record.
    ///
    /// An error says that a failure was not taken. With `ORCH_DB_DEGRADE_DONT_BLOCK=false` its partition is then held and
    /// this is called again; otherwise it is counted and logged as dropped.
    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        let noted = self.shared.note(failures);
        Box::pin(std::future::ready(noted))
    }

    /// Called after the commit: what was passed as a failure is posted, what was passed as a success is forgotten.
    fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.shared.pass(passed);
        Box::pin(std::future::ready(Ok(())))
    }

    /// Waits until the webhook has taken everything. Whoever drains gives up when the drain's time is over.
    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                let fewer = self.shared.fewer.notified();
                if self.shared.waiting().passed.is_empty() {
                    return;
                }
                fewer.await;
            }
        })
    }
}

impl Shared {
    fn note(&self, failures: &[FailureRecord]) -> Result<(), TrackerError> {
        let mut waiting = self.waiting();
        let fresh = |noted: &Noted| {
            noted
                .orphaned
                .is_none_or(|since| since.elapsed() < ORPHANS_KEPT)
        };
        waiting.noted.retain(|_, noted| fresh(noted));
        if waiting.passed.len() >= self.max_waiting {
            let message = format!("{} failures wait for the webhook", waiting.passed.len());
            return Err(TrackerError { message });
        }
        for failed in failures {
            let noted = Noted {
                failure: as_json(failed),
                orphaned: None,
            };
            waiting.noted.insert(failed.record.position(), noted);
        }
        Ok(())
    }

    fn pass(&self, passed: &Passed) {
        let mut waiting = self.waiting();
        for range in &passed.ranges {
            // Commits are in order: whatever lies before the range was passed too, by a commit that we were not told of
            // (the call was timed out). It had failed when we last heard of it.
            let first = range.partition.at(i64::MIN);
            let gone = waiting.noted.range(first..range.partition.at(range.next));
            let gone: Vec<SourcePosition> = gone.map(|(position, _)| position.clone()).collect();
            for position in gone {
                let succeeded = position.offset >= range.from
                    && passed.failures.binary_search(&position).is_err();
                if let Some(noted) = waiting.noted.remove(&position)
                    && !succeeded
                {
                    waiting.passed.push_back(noted.failure);
                }
            }
        }
        if !waiting.passed.is_empty() {
            self.more.notify_one();
        }
    }

    /// Posts for ever: what waits longest first, and again until it was taken.
    async fn keep_posting(self: Arc<Self>, webhook: Webhook) {
        let mut refusals = 0;
        loop {
            let failures: Vec<Value> = {
                let waiting = self.waiting();
                let next = waiting.passed.iter().take(MAX_IN_A_REQUEST);
                next.cloned().collect()
            };
            if failures.is_empty() {
                self.more.notified().await;
                continue;
            }
            let posted = webhook.post(&json!({ "failures": failures })).await;
            if let Err(error) = posted {
                refusals += 1;
                tracing::warn!(%error, refusals, "the webhook took no failures; it is tried again");
                tokio::time::sleep(RETRY.bound(refusals)).await;
                continue;
            }
            refusals = 0;
            self.waiting().passed.drain(..failures.len());
            self.fewer.notify_waiters();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Coordinates and the error; keys and payloads are not sent away.
fn as_json(failed: &FailureRecord) -> Value {
    let (record, failure) = (&failed.record, &failed.failure);
    json!({
        "dedup_key": record.dedup_key().as_str(),
        "topic": record.partition().topic.as_str(),
        "partition": record.partition().partition,
        "offset": record.offset(),
        "class": failure.class.as_str(),
        "stage": failure.stage.as_str(),
        "error": failure.message,
        "attempts": failure.attempts,
        "first_failed_at_ms": failure.first_failed_at_ms,
        "dead_lettered": failed.dead_lettered,
    })
}
