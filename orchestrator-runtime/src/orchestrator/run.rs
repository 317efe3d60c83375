//! A run: opens transformer and ledger, keeps the workers running, and puts another in the place of one whose ports
//! fail. Neither a broker nor a database that is away ends it or holds up its drain.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_core::ports::SessionFailure;
use orchestrator_core::{Backoff, TransformError, Transformer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::outcome::{Drained, RunError};
use super::{Orchestrator, ledger, settings};
use crate::clock::WallClock;
use crate::config::Config;
use crate::health::{Health, WorkerState};
use crate::identity::Identity;
use crate::kafka::ports::{self, KafkaPorts};
use crate::kafka::session::{Limiter, limiter};
use crate::metrics::PipelineMetrics;
use crate::observe::{Observer, TransactionObserver};
use crate::tracker::SharedTracker;
use crate::worker::settings::Counts;
use crate::worker::{End, Worker, WorkerReport};

/// After so long without a failure the next one counts as the first.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// A worker that failed is started anew after at most so long.
const RESTART: Backoff = Backoff {
    base: Duration::from_millis(100),
    max: Duration::from_secs(10),
};

/// What the workers of a run share.
struct Running<T> {
    config: Config,
    transformer: Arc<T>,
    tracker: SharedTracker,
    limiter: Option<Arc<Limiter>>,
    metrics: Arc<PipelineMetrics>,
    health: Health,
    drain: CancellationToken,
}

/// Why a worker has ended for good, though it was not asked to.
enum Ended {
    Poison(String),
    Fenced(String),
    Failed(String),
}

impl<T: Transformer> Orchestrator<T> {
    /// Runs until `drain` is cancelled: then what was taken and is not held is committed, and the group is left.
    ///
    /// Broker outages and rebalances never end it. Cancel safety: dropping the future leaves open what was not
    /// committed, as a crash would; nothing is lost or doubled, but cancel `drain` instead.
    ///
    /// # Errors
    /// What no waiting would change; see [`RunError`].
    pub async fn run(self, drain: CancellationToken) -> Result<Drained, RunError> {
        // One worker's end for good ends all of them, as gently as a drain.
        let drain = drain.child_token();
        let transformer = self.transformer.clone();
        let (health, workers) = (self.health.clone(), self.config.workers);
        let close_patience = self.config.ops.drain_timeout;
        let opened = tokio::select! {
            biased;
            opened = transformer.open() => opened,
            () = drain.cancelled() => return Ok(never_started(&health, workers)),
        };
        opened.map_err(|error: TransformError| RunError::Open(error.to_string()))?;
        let ended = tokio::select! {
            biased;
            running = self.start(&drain) => match running {
                Ok(running) => Arc::new(running).run_workers().await,
                Err(error) => Err(error),
            },
            () = drain.cancelled() => Ok(never_started(&health, workers)),
        };
        if tokio::time::timeout(close_patience, transformer.close())
            .await
            .is_err()
        {
            tracing::warn!(
                "the transformer was not closed within {close_patience:?} (ORCH_DRAIN_TIMEOUT_MS)"
            );
        }
        ended
    }

    /// Starts what the workers share.
    async fn start(self, drain: &CancellationToken) -> Result<Running<T>, RunError> {
        for number in 0..self.config.workers {
            let waits_for = waits_for_broker(&self.config);
            self.health.worker(number).state(waits_for);
        }
        let tracker = ledger::start(self.ledger, &self.config, &self.health).await?;
        Ok(Running {
            limiter: limiter(self.config.batch.rate_limit_per_second),
            config: self.config,
            transformer: self.transformer,
            tracker: SharedTracker::new(tracker),
            metrics: self.metrics,
            health: self.health,
            drain: drain.clone(),
        })
    }
}

impl<T: Transformer> Running<T> {
    /// Runs all workers to their ends.
    async fn run_workers(self: Arc<Self>) -> Result<Drained, RunError> {
        let identity = Identity::resolve(&self.config);
        let mut workers = JoinSet::new();
        let mut numbers = HashMap::new();
        for number in 0..self.config.workers {
            let (this, identity) = (self.clone(), identity.clone());
            let worker = workers.spawn(async move { this.keep_running(number, identity).await });
            numbers.insert(worker.id(), number);
        }
        let mut drained = Drained::default();
        let mut error = None;
        let mut draining = false;
        loop {
            let ended = tokio::select! {
                ended = workers.join_next_with_id() => ended,
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    for number in numbers.values() {
                        self.health.worker(*number).draining();
                    }
                    continue;
                }
            };
            let ended = match ended {
                None => break,
                Some(Ok((_, (one, ended)))) => {
                    drained += one;
                    ended
                }
                Some(Err(panic)) => {
                    if let Some(number) = numbers.get(&panic.id()) {
                        let why = panic.to_string();
                        self.health.worker(*number).state(WorkerState::Died { why });
                    }
                    Some(Ended::Failed(panic.to_string()))
                }
            };
            if ended.is_some() {
                self.drain.cancel();
            }
            error = error.or(ended);
        }
        match error {
            None => Ok(drained),
            Some(Ended::Poison(record)) => Err(RunError::StoppedOnPoison { record, drained }),
            Some(Ended::Fenced(error)) => Err(RunError::Fenced { error, drained }),
            Some(Ended::Failed(error)) => Err(RunError::Worker { error, drained }),
        }
    }

    /// Runs one worker, and another in its place when its ports fail.
    async fn keep_running(
        &self,
        number: usize,
        mut identity: Identity,
    ) -> (Drained, Option<Ended>) {
        let health = self.health.worker(number);
        let stopped = |why: String| health.state(WorkerState::Stopped { why });
        let mut drained = Drained::default();
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let report = self.run_worker(number, &identity).await;
            drained.counts += report.counts;
            drained.held_partitions = report.held;
            let failure = match report.end {
                End::Drained | End::DrainTimedOut => {
                    drained.timed_out = report.end == End::DrainTimedOut;
                    stopped("drained".to_owned());
                    return (drained, None);
                }
                End::StoppedOnPoison(record) => {
                    stopped(format!("poison: {record}"));
                    return (drained, Some(Ended::Poison(record)));
                }
                End::Failed(failure) => failure,
            };
            if let SessionFailure::Fenced(error) = &failure {
                match identity.renewed() {
                    Some(renewed) => identity = renewed,
                    None if !self.has_a_twin(number, &identity, error).await => {}
                    None => {
                        let why = format!("fenced: {error}");
                        health.state(WorkerState::Died { why });
                        return (drained, Some(Ended::Fenced(error.clone())));
                    }
                }
            }
            if self.drain.is_cancelled() {
                // What it had under way is not committed, so this is no clean drain.
                let why = format!("failed while it was drained: {failure:?}");
                health.state(WorkerState::Died { why: why.clone() });
                return (drained, Some(Ended::Failed(why)));
            }
            if began.elapsed() >= FORGIVEN_AFTER {
                failures = 0;
            }
            failures += 1;
            let wait = RESTART.bound(failures);
            tracing::warn!(
                worker = number,
                ?failure,
                ?wait,
                "a worker failed and is started anew"
            );
            let waits_for = format!("restart after {failure:?}").into();
            health.state(WorkerState::Starting { waits_for });
            tokio::select! {
                () = self.drain.cancelled() => {
                    stopped("drained".to_owned());
                    return (drained, None);
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether it was a twin that has fenced a worker of this name, as far as there is time to find out.
    async fn has_a_twin(&self, number: usize, identity: &Identity, error: &str) -> bool {
        let Some(visitor) = ports::visitor(&self.config, identity, number) else {
            return true;
        };
        tracing::warn!(
            worker = number,
            error,
            "fenced: waiting whether another process has our place in the group, or a request of our own that came late"
        );
        let waits_for = "our place in the group".into();
        let health = self.health.worker(number);
        health.state(WorkerState::Starting { waits_for });
        tokio::select! {
            () = self.drain.cancelled() => true,
            found = visitor.finds_a_twin() => found,
        }
    }

    async fn run_worker(&self, number: usize, identity: &Identity) -> WorkerReport {
        let health = self.health.worker(number);
        health.state(waits_for_broker(&self.config));
        // Until the session is there, which looks at the clock itself.
        let mut clock = WallClock::now();
        let ports = KafkaPorts::open(
            &self.config,
            identity,
            number,
            self.limiter.clone(),
            TransactionObserver::new(self.metrics.clone()),
            &self.health,
        );
        let ports = tokio::select! {
            biased;
            () = self.drain.cancelled() => return nothing_done(End::Drained),
            failure = clock.broken() => return nothing_done(End::Failed(failure)),
            ports = ports => ports,
        };
        let KafkaPorts {
            session,
            committer,
            handle,
        } = match ports {
            Ok(ports) => ports,
            Err(failure) => return nothing_done(End::Failed(failure)),
        };
        health.state(WorkerState::Running);
        let observer = Observer::new(self.metrics.clone(), health, self.health.clone(), handle);
        let worker = Worker::new(
            session,
            committer,
            self.transformer.clone(),
            self.tracker.of_worker(number),
            settings::worker(&self.config, identity, number),
            observer,
        );
        worker.run(self.drain.clone()).await
    }
}

fn waits_for_broker(config: &Config) -> WorkerState {
    let brokers = &config.kafka.bootstrap_servers;
    WorkerState::Starting {
        waits_for: format!("broker {brokers} ({}BOOTSTRAP_SERVERS)", config.prefix).into(),
    }
}

fn never_started(health: &Health, workers: usize) -> Drained {
    for number in 0..workers {
        let why = "drained before it was started".to_owned();
        health.worker(number).state(WorkerState::Stopped { why });
    }
    Drained::default()
}

fn nothing_done(end: End) -> WorkerReport {
    WorkerReport {
        end,
        counts: Counts::default(),
        held: 0,
    }
}
