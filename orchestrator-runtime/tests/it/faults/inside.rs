//! A pipeline inside the test's own process, for transformers that wait for the test. Used where the example app's
//! faults do not reach.

use std::collections::BTreeMap;

use orchestrator_runtime::core::Transformer;
use orchestrator_runtime::{CancellationToken, Config, Drained, Orchestrator, RunError};
use orchestrator_testkit::wait;
use tokio::task::JoinHandle;

use super::scene::LIMIT;

/// A running pipeline.
pub(crate) struct Inside {
    drain: CancellationToken,
    running: JoinHandle<Result<Drained, RunError>>,
    handle: orchestrator_runtime::Handle,
}

impl Inside {
    pub(crate) fn start(config: Config, transformer: impl Transformer) -> Self {
        let pipeline = Orchestrator::builder(config)
            .transformer(transformer)
            .build()
            .unwrap();
        let (drain, handle) = (CancellationToken::new(), pipeline.handle());
        let running = tokio::spawn(pipeline.run(drain.clone()));
        Self {
            drain,
            running,
            handle,
        }
    }

    /// The held partitions: at which offset, and why.
    pub(crate) fn held(&self) -> BTreeMap<i32, (i64, &'static str)> {
        let workers = self.handle.health().snapshot().workers;
        let partitions = workers.into_iter().flat_map(|worker| worker.partitions);
        partitions
            .filter_map(|(p, view)| view.held.map(|h| (p.partition, (h.offset, h.reason))))
            .collect()
    }

    /// Waits until exactly these are held, for this reason.
    pub(crate) async fn wait_until_held(&self, offsets: &BTreeMap<i32, i64>, reason: &'static str) {
        let wanted: BTreeMap<_, _> = offsets.iter().map(|(p, at)| (*p, (*at, reason))).collect();
        let what = format!("{wanted:?} are held");
        let held = wait::until(&what, LIMIT, async || self.held() == wanted).await;
        held.unwrap_or_else(|error| panic!("{error}; held are {:?}", self.held()));
    }

    /// How many synchronous transforms are known to hang.
    pub(crate) fn hung(&self) -> usize {
        let workers = self.handle.health().snapshot().workers;
        workers.iter().map(|worker| worker.hung).sum()
    }

    pub(crate) async fn drain(self) -> Drained {
        self.drain.cancel();
        self.running.await.unwrap().unwrap()
    }

    /// Drops the pipeline's future wherever it is, as an embedder may.
    pub(crate) async fn drop_it(self) {
        self.running.abort();
        assert!(
            self.running.await.unwrap_err().is_cancelled(),
            "it has ended before"
        );
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> Result<Drained, RunError> {
        self.running.await.unwrap()
    }
}
