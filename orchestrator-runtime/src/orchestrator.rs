//! The pipeline: builds workers from a configuration, runs them until they are drained, and starts one anew when its
//! ports fail. Called by embedders and by `main`; it touches nothing process-wide.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use orchestrator_core::ports::SessionFailure;
use orchestrator_core::{
    Backoff, FailureTracker, LedgerIdentity, Policy, SourcePartition, TransformError, Transformer,
};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::config::{StorePayload, Strategy};
use crate::health::LedgerState;
use crate::health::{Health, WorkerState};
use crate::identity::Identity;
use crate::kafka::ports::KafkaPorts;
use crate::kafka::session::{Limiter, limiter};
use crate::metrics::PipelineMetrics;
use crate::observe::{Observer, TransactionObserver};
use crate::tracker::{self, LedgerSettings, LedgerStrategy};
use crate::worker::settings::{Counts, WorkerSettings};
use crate::worker::stage::StageSettings;
use crate::worker::{End, Worker, WorkerReport};

/// A worker that failed is started anew after at most so long.
const RESTART: Backoff = Backoff {
    base: Duration::from_millis(100),
    max: Duration::from_secs(10),
};

/// A run that came to its end as it was asked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// What was committed.
    pub counts: Counts,
    /// Partitions that were held, and left so.
    pub held_partitions: usize,
    /// Whether `ORCH_DRAIN_TIMEOUT_MS` passed before everything was committed.
    pub timed_out: bool,
}

/// Why a run ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A poison record under `ORCH_ATOMIC_ON_POISON=STOP`.
    #[error("stopped on poison at {record}; fix the transformer, or set ORCH_DEAD_LETTER_RECORDS")]
    StoppedOnPoison {
        /// Its position and error.
        record: String,
    },
    /// Another process runs with the same explicit `ORCH_INSTANCE_ID`.
    #[error("fenced by a twin: another process has the same ORCH_INSTANCE_ID ({error})")]
    Fenced {
        /// What was said.
        error: String,
    },
    /// The transformer could not be opened.
    #[error("the transformer could not be opened: {0}")]
    Open(String),
    /// The ledger's settings can never work.
    #[error("the failure ledger cannot be opened: {0}")]
    Ledger(String),
    /// A worker panicked: a bug of the runtime.
    #[error("a worker ended unexpectedly: {0}")]
    Worker(String),
}

/// Builds an [`Orchestrator`].
pub struct Builder<T = ()> {
    config: Config,
    transformer: T,
    tracker: Option<Arc<dyn FailureTracker>>,
    prometheus: Option<PrometheusHandle>,
}

impl<T> Builder<T> {
    /// What makes outputs of records. Required.
    pub fn transformer<U: Transformer>(self, transformer: U) -> Builder<U> {
        Builder {
            config: self.config,
            transformer,
            tracker: self.tracker,
            prometheus: self.prometheus,
        }
    }

    /// A failure tracker of one's own, instead of `ORCH_DB_STRATEGY`.
    #[must_use]
    pub fn failure_tracker(mut self, tracker: impl FailureTracker) -> Self {
        self.tracker = Some(Arc::new(tracker));
        self
    }

    /// Has `/metrics` of the [`Handle`]'s router answer from this recorder.
    #[must_use]
    pub fn prometheus(mut self, prometheus: PrometheusHandle) -> Self {
        self.prometheus = Some(prometheus);
        self
    }
}

impl<T: Transformer> Builder<T> {
    /// The pipeline, not yet running: no socket is opened.
    pub fn build(self) -> Orchestrator<T> {
        for warning in &self.config.warnings {
            tracing::warn!("{warning}");
        }
        let metrics = Arc::new(PipelineMetrics::new(&self.config.kafka.group_id));
        let now = Instant::now().into_std();
        let stall = self.config.ops.stall_timeout;
        let health = Health::new(metrics.clone(), self.config.workers, stall, now);
        Orchestrator {
            tracker: self.tracker,
            config: self.config,
            transformer: Arc::new(self.transformer),
            metrics,
            health,
            prometheus: self.prometheus,
        }
    }
}

impl<T> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What can be seen of a pipeline from outside, while it runs and after.
#[derive(Clone, Debug)]
pub struct Handle {
    health: Health,
    prometheus: Option<PrometheusHandle>,
}

impl Handle {
    /// Its health.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// `/livez`, `/readyz`, `/health` and `/metrics`, to be served or merged into a router of one's own.
    pub fn router(&self) -> Router {
        crate::http::router(self.health.clone(), self.prometheus.clone())
    }
}

/// A pipeline: consume, transform, produce, exactly once.
pub struct Orchestrator<T> {
    config: Config,
    transformer: Arc<T>,
    tracker: Option<Arc<dyn FailureTracker>>,
    metrics: Arc<PipelineMetrics>,
    health: Health,
    prometheus: Option<PrometheusHandle>,
}

impl Orchestrator<()> {
    /// Begins to build a pipeline.
    pub fn builder(config: Config) -> Builder<()> {
        Builder {
            config,
            transformer: (),
            tracker: None,
            prometheus: None,
        }
    }
}

impl<T: Transformer> Orchestrator<T> {
    /// What can be seen of it from outside.
    pub fn handle(&self) -> Handle {
        Handle {
            health: self.health.clone(),
            prometheus: self.prometheus.clone(),
        }
    }

    /// Runs until `drain` is cancelled: then what was taken and is not held is committed, and the group is left.
    ///
    /// Broker outages and rebalances never end it. Cancel safety: dropping the future leaves open what was not
    /// committed, as a crash would; nothing is lost or doubled, but cancel `drain` instead.
    pub async fn run(self, drain: CancellationToken) -> Result<Drained, RunError> {
        self.transformer
            .open()
            .await
            .map_err(|error: TransformError| RunError::Open(error.to_string()))?;
        // One worker's end for good ends all of them, as gently as a drain.
        let drain = drain.child_token();
        let transformer = self.transformer.clone();
        let tracker = match &self.tracker {
            Some(tracker) => tracker.clone(),
            None => self.open_ledger().await?,
        };
        let identity = Identity::resolve(&self.config);
        let limiter = limiter(self.config.batch.rate_limit_per_second);
        let this = Arc::new(self);
        let mut workers = JoinSet::new();
        for number in 0..this.config.workers {
            let (this, identity, limiter) = (this.clone(), identity.clone(), limiter.clone());
            let tracker = tracker.clone();
            let drain = drain.clone();
            workers.spawn(async move {
                this.keep_running(number, identity, limiter, tracker, drain)
                    .await
            });
        }
        let mut drained = Drained::default();
        let mut result = Ok(());
        while let Some(ended) = workers.join_next().await {
            let ended = ended.map_err(|error| RunError::Worker(error.to_string()));
            match ended.and_then(|ended| ended) {
                Ok(one) => {
                    drained.counts += one.counts;
                    drained.held_partitions += one.held_partitions;
                    drained.timed_out |= one.timed_out;
                }
                Err(error) => {
                    drain.cancel();
                    result = Err(error);
                }
            }
        }
        transformer.close().await;
        result.map(|()| drained)
    }

    /// The ledger of `ORCH_DB_STRATEGY`. A database that is down is no error.
    async fn open_ledger(&self) -> Result<Arc<dyn FailureTracker>, RunError> {
        let ledger = &self.config.ledger;
        let settings = LedgerSettings {
            strategy: match ledger.strategy {
                Strategy::None => LedgerStrategy::None,
                Strategy::Lightweight => LedgerStrategy::Lightweight,
                Strategy::Outbox => LedgerStrategy::Outbox,
                Strategy::Reliable => LedgerStrategy::Reliable,
            },
            url: ledger.url.as_ref().map(|url| url.expose().to_owned()),
            table: ledger.table.clone(),
            timeout: ledger.timeout,
            batch_budget: ledger.batch_budget,
            circuit_failure_threshold: ledger.circuit_failure_threshold,
            circuit_open: ledger.circuit_open,
            degrade_dont_block: ledger.degrade_dont_block,
            queue_max_rows: ledger.queue_max_rows,
            store_payload: match ledger.store_payload {
                StorePayload::None => tracker::StorePayload::None,
                StorePayload::Failed => tracker::StorePayload::Failed,
                StorePayload::All => tracker::StorePayload::All,
            },
            pipeline: self.config.kafka.group_id.clone(),
        };
        let identity = LedgerIdentity {
            // One database serves one cluster for now: its id is not asked for before the first row.
            cluster_id: String::new(),
            consumer_group: self.config.kafka.group_id.clone(),
        };
        let ledger = tracker::build(&settings, identity)
            .await
            .map_err(|error| RunError::Ledger(error.message))?;
        self.health.ledger(match &ledger.health {
            None => LedgerState::Off,
            Some(_) => LedgerState::Up,
        });
        Ok(ledger.tracker)
    }

    /// Runs one worker, and another in its place when its ports fail.
    async fn keep_running(
        &self,
        number: usize,
        mut identity: Identity,
        limiter: Option<Arc<Limiter>>,
        tracker: Arc<dyn FailureTracker>,
        drain: CancellationToken,
    ) -> Result<Drained, RunError> {
        let health = self.health.worker(number);
        let mut drained = Drained::default();
        let mut failures = 0;
        loop {
            let report = self
                .run_worker(number, &identity, &limiter, &tracker, &drain)
                .await;
            drained.counts += report.counts;
            drained.held_partitions = report.held;
            let failure = match report.end {
                End::Drained | End::DrainTimedOut => {
                    drained.timed_out = report.end == End::DrainTimedOut;
                    health.state(WorkerState::Stopped {
                        why: "drained".to_owned(),
                    });
                    return Ok(drained);
                }
                End::StoppedOnPoison(record) => {
                    health.state(WorkerState::Stopped {
                        why: format!("poison: {record}"),
                    });
                    return Err(RunError::StoppedOnPoison { record });
                }
                End::Failed(failure) => failure,
            };
            if let SessionFailure::Fenced(error) = &failure {
                match identity.renewed() {
                    Some(renewed) => identity = renewed,
                    None => {
                        health.state(WorkerState::Died {
                            why: format!("fenced: {error}"),
                        });
                        return Err(RunError::Fenced {
                            error: error.clone(),
                        });
                    }
                }
            }
            failures += 1;
            let wait = RESTART.bound(failures);
            tracing::warn!(
                worker = number,
                ?failure,
                ?wait,
                "a worker failed and is started anew"
            );
            health.state(WorkerState::Starting {
                waits_for: format!("restart after {failure:?}").into(),
            });
            tokio::select! {
                () = drain.cancelled() => return Ok(drained),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn run_worker(
        &self,
        number: usize,
        identity: &Identity,
        limiter: &Option<Arc<Limiter>>,
        tracker: &Arc<dyn FailureTracker>,
        drain: &CancellationToken,
    ) -> WorkerReport {
        let health = self.health.worker(number);
        let waits_for = format!(
            "broker {} (ORCH_BOOTSTRAP_SERVERS)",
            self.config.kafka.bootstrap_servers
        );
        health.state(WorkerState::Starting {
            waits_for: waits_for.into(),
        });
        let observer = TransactionObserver::new(self.metrics.clone());
        let ports = KafkaPorts::open(
            &self.config,
            identity,
            number,
            limiter.clone(),
            observer,
            &self.health,
        );
        let ports = tokio::select! {
            ports = ports => ports,
            () = drain.cancelled() => return nothing_done(End::Drained),
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
        let settings = worker_settings(&self.config, number);
        let worker = Worker::new(
            session,
            committer,
            self.transformer.clone(),
            tracker.clone(),
            settings,
            observer,
        );
        worker.run(drain.clone()).await
    }
}

impl<T> fmt::Debug for Orchestrator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn nothing_done(end: End) -> WorkerReport {
    WorkerReport {
        end,
        counts: Counts::default(),
        held: 0,
    }
}

fn worker_settings(config: &Config, number: usize) -> WorkerSettings {
    let listed = config.failure.dead_letter_records.iter();
    let dead_letter_records: BTreeSet<_> = listed
        .map(|r| SourcePartition::new(r.topic.as_str(), r.partition).at(r.offset))
        .collect();
    WorkerSettings {
        policy: Policy {
            mode: config.failure.mode,
            on_poison: config.failure.atomic_on_poison,
            max_attempts: config.failure.max_attempts,
            backoff: Backoff {
                base: config.failure.retry_backoff,
                max: config.failure.retry_backoff_max,
            },
            skip_max_percent: config.failure.skip_max_percent,
            dead_letters: config.failure.dlq_topic.is_some(),
            dead_letter_records: dead_letter_records.clone(),
        },
        consumer_group: config.kafka.group_id.clone(),
        target_topic: config.kafka.target_topic.as_deref().map(Into::into),
        dlq_topic: config.failure.dlq_topic.clone(),
        stage: StageSettings {
            concurrency: config.transform.concurrency,
            timeout: config.transform.timeout,
            dead_letter_records: Arc::new(dead_letter_records),
        },
        commit_interval: config.batch.commit_interval,
        max_records: config.batch.max_records,
        max_bytes: config.batch.max_bytes.max(config.batch.max_output_bytes),
        max_outputs_per_record: config.batch.max_outputs_per_record,
        output_dedup_header: config.failure.output_dedup_header,
        held_max_bytes: config.batch.held_max_bytes,
        drain_timeout: config.ops.drain_timeout,
        seed: fastrand::u64(..) ^ number as u64,
    }
}
