//! The tracker of a run as each of its workers sees it. Workers hear of a partition that moves between them in any order:
//! one that was expelled learns of it when another has long been assigned its partitions. It must never tell the
//! tracker that a partition is gone which another worker has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use orchestrator_core::{
    BoxFuture, FailureRecord, FailureTracker, Passed, SourcePartition, SourcePosition, Taken,
    TrackerError,
};

/// See the module.
#[derive(Clone)]
pub(crate) struct SharedTracker {
    tracker: Arc<dyn FailureTracker>,
    /// Which worker was assigned a partition last. Held while the tracker is told, so that it is told in order.
    owners: Arc<Mutex<Owners>>,
}

type Owners = HashMap<SourcePartition, usize>;

impl SharedTracker {
    pub(crate) fn new(tracker: Arc<dyn FailureTracker>) -> Self {
        Self {
            tracker,
            owners: Arc::default(),
        }
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What worker `number` tells.
    pub(crate) fn of_worker(&self, number: usize) -> Arc<dyn FailureTracker> {
        Arc::new(OfWorker {
            shared: self.clone(),
            number,
        })
    }
}

/// A future that was polled once: a tracker takes in at once what it is told, and does what takes time after that.
fn begun<'a, T: Send + 'a>(mut future: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
    match (&mut future).now_or_never() {
        Some(done) => Box::pin(std::future::ready(done)),
        None => future,
    }
}

struct OfWorker {
    shared: SharedTracker,
    number: usize,
}

impl FailureTracker for OfWorker {
    fn assigned<'a>(
        &'a self,
        starts: &'a [SourcePosition],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        let mut owners = self.shared.owners();
        for start in starts {
            owners.insert(start.partition.clone(), self.number);
        }
        begun(self.shared.tracker.assigned(starts))
    }

    fn revoked<'a>(&'a self, partitions: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
        let mut owners = self.shared.owners();
        let is_ours = |partition: &&SourcePartition| owners.get(*partition) == Some(&self.number);
        let ours: Vec<_> = partitions.iter().filter(is_ours).cloned().collect();
        for partition in &ours {
            owners.remove(partition);
        }
        if ours.is_empty() {
            return Box::pin(std::future::ready(()));
        }
        let tracker = self.shared.tracker.clone();
        begun(Box::pin(async move { tracker.revoked(&ours).await }))
    }

    fn notes_received(&self) -> bool {
        self.shared.tracker.notes_received()
    }

    fn received<'a>(&'a self, taken: &'a [Taken]) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.shared.tracker.received(taken)
    }

    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.shared.tracker.failed(failures)
    }

    fn committed<'a>(&'a self, passed: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.shared.tracker.committed(passed)
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.shared.tracker.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl Told {
        fn told(&self, what: &str, partitions: Vec<i32>) {
            let mut told = self.0.lock().unwrap();
            told.push(format!("{what} {partitions:?}"));
        }
    }

    impl FailureTracker for Told {
        fn assigned<'a>(
            &'a self,
            starts: &'a [SourcePosition],
        ) -> BoxFuture<'a, Result<(), TrackerError>> {
            let starts = starts.iter().map(|start| start.partition.partition);
            self.told("assigned", starts.collect());
            Box::pin(std::future::ready(Ok(())))
        }

        fn revoked<'a>(&'a self, partitions: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
            let partitions = partitions.iter().map(|partition| partition.partition);
            self.told("revoked", partitions.collect());
            Box::pin(std::future::ready(()))
        }

        fn failed<'a>(&'a self, _: &'a [FailureRecord]) -> BoxFuture<'a, Result<(), TrackerError>> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn committed<'a>(&'a self, _: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[tokio::test]
    async fn a_worker_that_learns_late_what_it_lost_takes_nothing_from_another() {
        let told = Told::default();
        let shared = SharedTracker::new(Arc::new(told.clone()));
        let [first, second] = [0, 1].map(|number| shared.of_worker(number));
        let partitions = [0, 1, 2].map(|number| SourcePartition::new("orders", number));
        let starts = |of: &[SourcePartition]| -> Vec<_> {
            of.iter().map(|partition| partition.at(0)).collect()
        };
        first.assigned(&starts(&partitions)).await.unwrap();
        second.assigned(&starts(&partitions[1..2])).await.unwrap();
        first.revoked(&partitions).await;
        second.revoked(&partitions[1..2]).await;
        first.revoked(&partitions).await;
        let expected = [
            "assigned [0, 1, 2]",
            "assigned [1]",
            "revoked [0, 2]",
            "revoked [1]",
        ];
        assert_eq!(*told.0.lock().unwrap(), expected);
    }
}
