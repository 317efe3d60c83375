//! A failure store in memory: a complete `FailureStore`, of nothing but maps. It keeps every promise of the trait, so
//! that it shows what a store over a real database has to do; what it does not do is outlive its process.
//!
//! It needs the domain crate only: time-outs, circuit breaker, metrics and the strategies are put round it by the
//! runtime.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orchestrator_core::ledger_row::{LedgerRow, LedgerStatus};
use orchestrator_core::tracker::{STALE_CLASS, STALE_MESSAGE};
use orchestrator_core::{
    FailureStore, LedgerIdentity, OffsetRange, Provisional, ReceivedPage, ReceivedRow, Settlement,
    SourcePosition, StoreFuture,
};

/// The store. Clones share their rows, as processes share a database.
#[derive(Clone, Debug, Default)]
pub struct InMemoryStore {
    ledgers: Arc<Mutex<BTreeMap<(String, String), Rows>>>,
}

/// The rows of one ledger, by what is unique: a topic that was deleted and made again has its offsets twice, but hardly
/// with the same timestamps.
type Rows = BTreeMap<(SourcePosition, i64), StoredRow>;

/// A row as it is stored.
#[derive(Clone, Debug)]
pub struct StoredRow {
    /// What the strategy wrote.
    pub row: LedgerRow,
    /// What has become of the record.
    pub status: LedgerStatus,
    /// Whether its error is that nobody has heard of it since.
    pub stale: bool,
    /// When a failure turned out to be a success.
    pub resolved_at_ms: Option<i64>,
    /// When the row was written first.
    pub created_at_ms: i64,
    /// When the row was written last.
    pub updated_at_ms: i64,
}

impl StoredRow {
    fn new(row: &LedgerRow, status: LedgerStatus, now_ms: i64) -> Self {
        Self {
            row: row.clone(),
            status,
            stale: false,
            resolved_at_ms: None,
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
        }
    }

    /// What a database has in the column `error_class`.
    pub fn error_class(&self) -> Option<&str> {
        let class = self.row.error.as_ref().map(|error| error.class.as_str());
        if self.stale { Some(STALE_CLASS) } else { class }
    }

    /// What a database has in the column `error_message`.
    pub fn error_message(&self) -> Option<&str> {
        let message = self.row.error.as_ref().map(|error| error.message.as_str());
        if self.stale {
            Some(STALE_MESSAGE)
        } else {
            message
        }
    }

    /// Failed, and not known to have been passed.
    fn is_provisional(&self) -> bool {
        self.status == LedgerStatus::Failed && self.row.passed_at_ms.is_none()
    }
}

impl InMemoryStore {
    /// All rows with their ledgers: what a real store has SQL for.
    pub fn rows(&self) -> Vec<(LedgerIdentity, StoredRow)> {
        let mut all = Vec::new();
        for ((cluster_id, consumer_group), rows) in &*self.lock() {
            let ledger = LedgerIdentity {
                cluster_id: cluster_id.clone(),
                consumer_group: consumer_group.clone(),
            };
            all.extend(rows.values().map(|row| (ledger.clone(), row.clone())));
        }
        all
    }

    /// One statement: whole or not at all, and nothing happens before it is awaited.
    fn statement<'a, T: Send + 'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        change: impl FnOnce(&mut Rows) -> T + Send + 'a,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            let ledger = (ledger.cluster_id.clone(), ledger.consumer_group.clone());
            Ok(change(self.lock().entry(ledger).or_default()))
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Rows>> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailureStore for InMemoryStore {
    /// Where a real store connects and makes its tables.
    fn prepare(&self) -> StoreFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn insert_received<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement(ledger, move |stored| {
            for row in rows {
                let new = StoredRow::new(row, LedgerStatus::Received, now_ms);
                let there = stored.entry(key(row)).or_insert(new);
                // What a later owner of the partition wrote stays, and so does what we wrote ourselves. What an earlier
                // one wrote begins anew; that it had failed is kept until it is known what becomes of it now.
                if there.row.fence < row.fence {
                    there.status = LedgerStatus::Received;
                    there.row.fence = row.fence;
                    there.row.passed_at_ms = None;
                    there.updated_at_ms = now_ms;
                }
            }
        })
    }

    fn upsert_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement(ledger, move |stored| {
            for row in rows {
                let mut new = StoredRow::new(row, LedgerStatus::Failed, now_ms);
                if let Some(there) = stored.get(&key(row)) {
                    let ours = there.row.fence == row.fence;
                    let succeeded = there.status == LedgerStatus::Success;
                    if there.row.fence > row.fence || (ours && succeeded) {
                        continue;
                    }
                    if ours {
                        // A repeat of a failure that was passed meanwhile.
                        new.row.passed_at_ms = row.passed_at_ms.or(there.row.passed_at_ms);
                    }
                    new.created_at_ms = there.created_at_ms;
                }
                stored.insert(key(row), new);
            }
        })
    }

    fn pass_failed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        at_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement(ledger, move |stored| {
            for position in positions {
                let range = position.offset..position.offset + 1;
                for there in within(stored, position, range) {
                    if there.is_provisional() && there.row.fence <= at_ms {
                        there.row.passed_at_ms = Some(at_ms);
                        there.updated_at_ms = at_ms;
                    }
                }
            }
        })
    }

    fn succeed<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        at_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement(ledger, move |stored| {
            for OffsetRange {
                partition,
                from,
                next,
            } in ranges
            {
                for there in within(stored, &partition.at(*from), *from..*next) {
                    let unsettled = [LedgerStatus::Received, LedgerStatus::Unknown];
                    let open = unsettled.contains(&there.status) || there.is_provisional();
                    if open && there.row.fence <= at_ms {
                        if there.error_class().is_some() {
                            there.resolved_at_ms = Some(at_ms);
                        }
                        there.status = LedgerStatus::Success;
                        there.row.passed_at_ms = Some(at_ms);
                        there.updated_at_ms = at_ms;
                    }
                }
            }
        })
    }

    fn provisional<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Provisional>> {
        self.statement(ledger, move |stored| {
            let rows = within(stored, from, from.offset..i64::MAX);
            let provisional = rows.filter(|there| there.is_provisional());
            let provisional = provisional.map(|there| Provisional {
                offset: there.row.position.offset,
                fence: there.row.fence,
            });
            provisional.take(limit).collect()
        })
    }

    fn received_page<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, ReceivedPage> {
        self.statement(ledger, move |stored| {
            let rows = within(stored, from, from.offset..i64::MAX);
            let page: Vec<&StoredRow> = rows.take(limit).map(|there| &*there).collect();
            let last = page.last().filter(|_| page.len() == limit);
            let received = page
                .iter()
                .filter(|row| row.status == LedgerStatus::Received);
            ReceivedPage {
                next: last.map(|row| row.row.position.offset + 1),
                rows: received
                    .map(|row| ReceivedRow {
                        offset: row.row.position.offset,
                        updated_at_ms: row.updated_at_ms,
                    })
                    .collect(),
            }
        })
    }

    fn settle<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        settlement: Settlement,
        before_ms: i64,
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement(ledger, move |stored| {
            for position in positions {
                let range = position.offset..position.offset + 1;
                for there in within(stored, position, range) {
                    if there.status != LedgerStatus::Received || there.updated_at_ms >= before_ms {
                        continue;
                    }
                    there.status = settlement.status();
                    there.updated_at_ms = now_ms;
                    match settlement {
                        Settlement::Stale => there.stale = true,
                        Settlement::Success | Settlement::Unknown => {
                            there.row.passed_at_ms = Some(now_ms);
                        }
                    }
                }
            }
        })
    }

    fn prune<'a>(
        &'a self,
        ledger: &'a LedgerIdentity,
        created_ms: Range<i64>,
        limit: usize,
    ) -> StoreFuture<'a, u64> {
        self.statement(ledger, move |stored| {
            let old = stored.iter().filter(|(_, row)| {
                row.status == LedgerStatus::Success && created_ms.contains(&row.created_at_ms)
            });
            let mut old: Vec<_> = old
                .map(|(key, row)| (row.created_at_ms, key.clone()))
                .collect();
            old.sort();
            old.truncate(limit);
            for (_, key) in &old {
                stored.remove(key);
            }
            old.len() as u64
        })
    }
}

fn key(row: &LedgerRow) -> (SourcePosition, i64) {
    (row.position.clone(), row.record_timestamp_ms)
}

/// The rows of the partition of `at` with these offsets, in ascending order.
fn within<'a>(
    rows: &'a mut Rows,
    at: &SourcePosition,
    offsets: Range<i64>,
) -> impl Iterator<Item = &'a mut StoredRow> {
    let from = offsets.start;
    let next = offsets.end.max(from);
    let key = |offset| (at.partition.at(offset), i64::MIN);
    rows.range_mut(key(from)..key(next)).map(|(_, row)| row)
}
