//! Trackers that do everything wrong: Kafka goes on, and a drain ends.

use std::time::Instant;

use orchestrator_runtime::core::{
    BoxFuture, FailureRecord, FailureTracker, Passed, SourcePartition, SourcePosition, Taken,
    TrackerError,
};

use super::*;

const RECORDS: i64 = 300;

/// What is done wrong, in every call.
#[derive(Clone, Copy)]
enum Unruly {
    Hangs,
    /// Holds on to its thread, as a blocking client does.
    Blocks,
    Panics,
    Refuses,
}

impl Unruly {
    fn call<'a>(self) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async move {
            match self {
                Self::Hangs => std::future::pending().await,
                Self::Blocks => loop {
                    std::thread::park();
                },
                Self::Panics => panic!("planted"),
                Self::Refuses => Err(TrackerError {
                    message: "planted".to_owned(),
                }),
            }
        })
    }

    fn quiet<'a>(self) -> BoxFuture<'a, ()> {
        let call = self.call();
        Box::pin(async { drop(call.await) })
    }
}

impl FailureTracker for Unruly {
    fn assigned<'a>(&'a self, _: &'a [SourcePosition]) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.call()
    }

    fn revoked<'a>(&'a self, _: &'a [SourcePartition]) -> BoxFuture<'a, ()> {
        self.quiet()
    }

    fn notes_received(&self) -> bool {
        true
    }

    fn received<'a>(&'a self, _: &'a [Taken]) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.call()
    }

    fn failed<'a>(&'a self, _: &'a [FailureRecord]) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.call()
    }

    fn committed<'a>(&'a self, _: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        self.call()
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.quiet()
    }
}

async fn check(tracker: Unruly) {
    let source = topics(RECORDS).await;
    let more = [
        ("ORCH_DB_BATCH_BUDGET_MS", "200"),
        ("ORCH_DRAIN_TIMEOUT_MS", "1000"),
    ];
    let built = builder(&source, &more).failure_tracker(tracker).build();
    let running = run(&source, built.unwrap());
    running.wait_for_committed(RECORDS).await;
    let (handle, started) = (running.handle.clone(), Instant::now());
    let drained = running.drain().await;
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert_eq!((drained.counts.ok, drained.counts.failed), (270, 30));
    let counters = handle.health().snapshot().ledger_counters.unwrap();
    assert_eq!((counters.rows_written, counters.rows_dropped), (0, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_hangs_or_blocks_stops_neither_kafka_nor_the_drain() {
    tokio::join!(check(Unruly::Hangs), check(Unruly::Blocks));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_panics_or_refuses_stops_neither_kafka_nor_the_drain() {
    tokio::join!(check(Unruly::Panics), check(Unruly::Refuses));
}
