//! The safeguard: settles rows that have been RECEIVED for too long, because the process that took their records has
//! ended, or could not tell the database what became of them. Part of the upkeep. It passes over the rows of owned
//! partitions page by page, and settles none whose record is worked on or whose success may still be told.

use std::sync::Mutex;
use std::time::Duration;

use orchestrator_core::{FailureStore, Settlement, SourcePosition, StoreError, StoreErrorClass};
use tokio::time::{Instant, sleep};

use super::built_in::State;
use super::owned::{Owned, Page};
use super::pace::Pace;
use super::settled::{Settled, name};
use super::upkeep::timed;
use super::writer::{Writer, refused_alone};
use crate::clock::now_ms;

/// The most rows looked at in one statement.
pub(super) const PAGE_ROWS: usize = 5_000;
/// The least pause between two statements.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it looks what is due.
const TICK: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Safeguard {
    pub(super) owned: Mutex<Owned>,
    /// After so long a row that is RECEIVED is stale.
    pub(super) stale: Duration,
    /// What a stale row becomes whose record was passed.
    pub(super) of_passed: Settlement,
}

impl State {
    pub(super) async fn keep_settling(&self, safeguard: &Safeguard) {
        let tick = TICK.min(safeguard.stale / 4).max(PAUSE);
        let mut pace = Pace::gentle(PAGE_ROWS, self.upkeep.timeout);
        let mut losses = self.losses();
        loop {
            sleep(tick).await;
            let now = self.losses();
            if std::mem::replace(&mut losses, now) != now {
                safeguard.owned().lost(Instant::now());
            }
            let mut settled = Settled::default();
            let passed_over = self.pass_over(safeguard, &mut pace, &mut settled).await;
            settled.log();
            if let Err(error) = passed_over {
                tracing::debug!(%error, "the safeguard goes on later");
            }
        }
    }

    /// How many rows were given up, and how many statements failed: each may have been about a success.
    fn losses(&self) -> (u64, u64) {
        let counters = self.writer.health.counters();
        (counters.rows_dropped, counters.statement_errors)
    }

    /// Settles page after page of what is due, until there is trouble.
    async fn pass_over(
        &self,
        safeguard: &Safeguard,
        pace: &mut Pace,
        settled: &mut Settled,
    ) -> Result<(), StoreError> {
        if !self.is_quiet() || safeguard.owned().due(Instant::now()).is_none() {
            return Ok(());
        }
        // The successes of whoever was here before us may be in the journal that it has left behind.
        if let Some(spill) = &self.spill {
            spill.take_over().await;
        }
        while self.is_quiet() {
            let Some(page) = safeguard.owned().due(Instant::now()) else {
                break;
            };
            self.settle_page(safeguard, &page, pace, settled).await?;
        }
        Ok(())
    }

    async fn settle_page(
        &self,
        safeguard: &Safeguard,
        page: &Page,
        pace: &mut Pace,
        settled: &mut Settled,
    ) -> Result<(), StoreError> {
        let Writer { store, ledger, .. } = &self.writer;
        // In this order, after the page has its committed offset: a success below that was told, or is lost, unless
        // it waits here or in the journal.
        let untold = match &self.notes {
            Some(notes) => notes.first_untold(&page.from.partition).await,
            None => None,
        };
        if !self.is_quiet() {
            return Ok(());
        }
        let rows = pace.rows();
        let read = store.received_page(ledger, &page.from, rows);
        let (read, took) = timed(read).await;
        pace.took(rows, took, read.is_err());
        let read = read?;
        let before_ms = now_ms() - i64::try_from(safeguard.stale.as_millis()).unwrap_or(i64::MAX);
        let verdict = safeguard.owned().judge(page, &read.rows, untold, before_ms);
        let Some(verdict) = verdict else {
            return Ok(());
        };
        self.rest(PAUSE, took).await;
        for (settlement, positions) in [
            (safeguard.of_passed, &verdict.passed),
            (Settlement::Stale, &verdict.stale),
        ] {
            for some in positions.chunks(store.rows_per_statement()) {
                if !safeguard.owned().owns(page) {
                    return Ok(());
                }
                let (result, took) = timed(self.settle(some, settlement, before_ms)).await;
                settled.add(&page.from.partition, settlement, result?);
                self.rest(PAUSE, took).await;
            }
        }
        let now = Instant::now();
        let next = read.next.filter(|next| *next > page.from.offset);
        safeguard.owned().done(page, &verdict, next, now);
        Ok(())
    }

    /// Settles as many rows as one statement takes; gives back their number.
    async fn settle(
        &self,
        positions: &[SourcePosition],
        settlement: Settlement,
        before_ms: i64,
    ) -> Result<usize, StoreError> {
        let Writer {
            store,
            ledger,
            health,
            ..
        } = &self.writer;
        if !self.is_quiet() {
            let message = "the ledger's database is in trouble, or is needed for failures";
            return Err(StoreError::new(StoreErrorClass::Unavailable, message));
        }
        let done = store
            .settle(ledger, positions, settlement, before_ms, now_ms())
            .await;
        let rows = if done.is_ok() { positions.len() } else { 0 };
        refused_alone(done, positions.len())?;
        health.metrics().rows_settled(name(settlement), rows);
        Ok(rows)
    }
}
