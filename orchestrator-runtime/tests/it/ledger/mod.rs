//! The failure ledger end to end: the example app as a process, on a real Kafka with real databases.
//!
//! Every test compares the table, read by plain SQL, row by row with what `truth` makes of the source topic and of
//! what the test did. Neither shares code with the tracker.

pub(crate) mod bed;
mod faults;
mod modes;
mod restarts;
mod table;
mod truth;
mod truth_tests;
mod twice;

use std::future::Future;

use futures_util::future::join_all;

use table::Kind;

/// Does the same on every database at once: most of a test is waiting.
async fn on_all<F: Future<Output = ()>>(test: impl Fn(Kind) -> F) {
    join_all([Kind::Sqlite, Kind::Postgres, Kind::MariaDb].map(test)).await;
}

/// A test for every strategy that writes rows, on every database; `$test` takes both.
macro_rules! with_every_strategy {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use crate::ledger::on_all;
            use crate::ledger::truth::Strategy::{Lightweight, Outbox, Reliable};

            #[tokio::test(flavor = "multi_thread")]
            async fn outbox() {
                on_all(|kind| super::$test(Outbox, kind)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn reliable() {
                on_all(|kind| super::$test(Reliable, kind)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn lightweight() {
                on_all(|kind| super::$test(Lightweight, kind)).await;
            }
        })*
    };
}
use with_every_strategy;
