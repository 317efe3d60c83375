//! The failure ledger end to end: the example app as a process, on a real Kafka with real databases.
//!
//! Every test compares the table, read by plain SQL, row by row with what `truth` makes of the source topic and of
//! what the test did. Neither shares code with the tracker.

mod bed;
mod faults;
mod modes;
mod restarts;
mod table;
mod truth;
mod twice;

/// A test for every strategy that writes rows, on every database. `$test` takes both.
macro_rules! on_every_ledger {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use super::super::table::Kind::{MariaDb, Postgres, Sqlite};
            use super::super::truth::Strategy::{Lightweight, Outbox, Reliable};

            crate::ledger::on_every_ledger! { @tests $test:
                outbox_on_sqlite(Outbox, Sqlite),
                outbox_on_postgres(Outbox, Postgres),
                outbox_on_mariadb(Outbox, MariaDb),
                reliable_on_sqlite(Reliable, Sqlite),
                reliable_on_postgres(Reliable, Postgres),
                reliable_on_mariadb(Reliable, MariaDb),
                lightweight_on_sqlite(Lightweight, Sqlite),
                lightweight_on_postgres(Lightweight, Postgres),
                lightweight_on_mariadb(Lightweight, MariaDb),
            }
        })*
    };
    (@tests $test:ident: $($name:ident($strategy:ident, $kind:ident),)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            super::$test($strategy, $kind).await;
        })*
    };
}
use on_every_ledger;
