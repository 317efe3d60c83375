//! A store in memory, for tests: it keeps the promises of `FailureStore` in the simplest way there is, and can be
//! down, hang, be slow, or refuse rows. databases are compared with it; strategies run on it in virtual time.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use orchestrator_core::ledger_row::{LedgerRow, LedgerStatus};
use orchestrator_core::tracker::STALE_CLASS;
use orchestrator_core::{
    Failure, FailureRecord, FailureStore, LedgerIdentity, OffsetRange, Passed, Provisional,
    ReceivedPage, ReceivedRow, Record, Settlement, SourcePartition, SourcePosition, StoreError,
    StoreErrorClass, StoreFuture, TransformError,
};

use super::LedgerSettings;
use super::guarded::Guarded;
use super::health::LedgerHealth;
use super::writer::Writer;
use crate::metrics::LedgerMetrics;

/// How the database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Up,
    Down,
    Panicking,
    Hanging,
    Slow(Duration),
    /// Each row that is written takes so long.
    SlowRows(Duration),
    /// The next statement meets a conflict, the others work.
    ConflictOnce,
    /// Refuses to note successes.
    RefusingSuccesses,
    /// Refuses rows with a payload; with `true` also those without.
    Refusing(bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredRow {
    pub(super) status: LedgerStatus,
    pub(super) row: LedgerRow,
    pub(super) resolved: bool,
    /// Whether its error is that it was settled as stale.
    pub(super) stale: bool,
    pub(super) created_ms: i64,
    pub(super) updated_ms: i64,
}

impl StoredRow {
    fn new(status: LedgerStatus, row: &LedgerRow, now_ms: i64) -> Self {
        Self {
            status,
            row: row.clone(),
            resolved: false,
            stale: false,
            created_ms: now_ms,
            updated_ms: now_ms,
        }
    }

    /// What the column `error_class` holds.
    pub(super) fn error_class(&self) -> Option<&'static str> {
        let class = self.row.error.as_ref().map(|error| error.class.as_str());
        if self.stale { Some(STALE_CLASS) } else { class }
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) rows: BTreeMap<(SourcePosition, i64), StoredRow>,
    pub(super) mood: Mood,
    pub(super) statements: Vec<&'static str>,
    /// What the upkeep has asked for: the statement, where it begins, and about how many rows it is.
    pub(super) asked: Vec<(&'static str, i64, usize)>,
    pub(super) prepared: usize,
    pub(super) connections: usize,
    pub(super) rows_per_statement: usize,
}

#[derive(Debug)]
pub(crate) struct FakeStore {
    inner: Mutex<Inner>,
}

impl Default for FakeStore {
    fn default() -> Self {
        let inner = Inner {
            rows: BTreeMap::new(),
            mood: Mood::Up,
            statements: Vec::new(),
            asked: Vec::new(),
            prepared: 0,
            connections: 1,
            rows_per_statement: 10,
        };
        Self {
            inner: Mutex::new(inner),
        }
    }
}

impl FakeStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.inner().mood = mood;
    }

    /// `offset status passed` of every row, in order.
    pub(super) fn summary(&self) -> Vec<String> {
        let inner = self.inner();
        let line = |((position, _), stored): (&(SourcePosition, i64), &StoredRow)| {
            let passed = if stored.row.passed_at_ms.is_some() {
                "passed"
            } else {
                "provisional"
            };
            format!("{} {} {passed}", position.offset, stored.status.as_str())
        };
        inner.rows.iter().map(line).collect()
    }

    /// Lets its rows get older.
    pub(super) fn age(&self, by: Duration) {
        let by = by.as_millis() as i64;
        for stored in self.inner().rows.values_mut() {
            stored.created_ms -= by;
            stored.updated_ms -= by;
        }
    }

    /// Waits as the mood says, then does `change`.
    fn statement<'a, T: Send + 'a>(
        &'a self,
        name: &'static str,
        rows: &'a [LedgerRow],
        change: impl FnOnce(&mut Inner) -> T + Send + 'a,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            let mood = self.inner().mood;
            self.inner().statements.push(name);
            match mood {
                Mood::Up => {}
                Mood::Down => return Err(StoreError::new(StoreErrorClass::Unavailable, "down")),
                Mood::Panicking => std::panic::resume_unwind(Box::new("planted")),
                Mood::Hanging => std::future::pending().await,
                Mood::Slow(time) => tokio::time::sleep(time).await,
                Mood::SlowRows(time) => tokio::time::sleep(time * rows.len() as u32).await,
                Mood::ConflictOnce => {
                    self.set(Mood::Up);
                    return Err(StoreError::new(StoreErrorClass::Conflict, "deadlock"));
                }
                Mood::RefusingSuccesses if name == "succeed" => {
                    return Err(StoreError::new(StoreErrorClass::Data, "refused"));
                }
                Mood::RefusingSuccesses => {}
                Mood::Refusing(all) => {
                    if rows.iter().any(|row| all || row.payload.is_some()) {
                        return Err(StoreError::new(StoreErrorClass::Data, "refused"));
                    }
                }
            }
            // PostgreSQL refuses such a statement as a whole.
            let mut seen = HashSet::new();
            if !rows.iter().all(|row| seen.insert(&row.position)) {
                let text = "a statement cannot change a row twice";
                return Err(StoreError::new(StoreErrorClass::Unavailable, text));
            }
            Ok(change(&mut self.inner()))
        })
    }
}

fn succeed(inner: &mut Inner, now_ms: i64, matches: impl Fn(&SourcePosition) -> bool) {
    for ((position, _), stored) in &mut inner.rows {
        let open = match stored.status {
            LedgerStatus::Received | LedgerStatus::Failed => stored.row.passed_at_ms.is_none(),
            LedgerStatus::Unknown => true,
            LedgerStatus::Success => false,
        };
        if open && stored.row.fence <= now_ms && matches(position) {
            stored.resolved |= stored.error_class().is_some();
            stored.status = LedgerStatus::Success;
            stored.row.passed_at_ms = Some(now_ms);
            stored.updated_ms = now_ms;
        }
    }
}

impl FailureStore for FakeStore {
    fn prepare(&self) -> StoreFuture<'_, ()> {
        self.statement("prepare", &[], |inner| inner.prepared += 1)
    }

    fn rows_per_statement(&self) -> usize {
        self.inner().rows_per_statement
    }

    fn connections(&self) -> usize {
        self.inner().connections
    }

    fn insert_received<'a>(
        &'a self,
        _: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement("insert_received", rows, move |inner| {
            for row in rows {
                let key = (row.position.clone(), row.record_timestamp_ms);
                let new = StoredRow::new(LedgerStatus::Received, row, now_ms);
                let stored = inner.rows.entry(key).or_insert(new);
                if row.fence > stored.row.fence {
                    stored.status = LedgerStatus::Received;
                    stored.updated_ms = now_ms;
                    stored.row.fence = row.fence;
                    stored.row.passed_at_ms = None;
                }
            }
        })
    }

    fn upsert_failed<'a>(
        &'a self,
        _: &'a LedgerIdentity,
        rows: &'a [LedgerRow],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement("upsert_failed", rows, move |inner| {
            for row in rows {
                let key = (row.position.clone(), row.record_timestamp_ms);
                let mut new = StoredRow::new(LedgerStatus::Failed, row, now_ms);
                let old = inner.rows.get(&key);
                new.created_ms = old.map_or(now_ms, |old| old.created_ms);
                let succeeded = old.is_some_and(|old| old.status == LedgerStatus::Success);
                match old.map(|stored| &stored.row) {
                    Some(old) if old.fence > row.fence => continue,
                    Some(old) if old.fence == row.fence && succeeded => continue,
                    Some(old) if old.fence == row.fence => {
                        new.row.passed_at_ms = row.passed_at_ms.or(old.passed_at_ms);
                    }
                    _ => {}
                }
                inner.rows.insert(key, new);
            }
        })
    }

    fn pass_failed<'a>(
        &'a self,
        _: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement("pass_failed", &[], move |inner| {
            for ((position, _), stored) in &mut inner.rows {
                let provisional =
                    stored.status == LedgerStatus::Failed && stored.row.passed_at_ms.is_none();
                let newer = stored.row.fence > now_ms;
                if provisional && !newer && positions.contains(position) {
                    stored.row.passed_at_ms = Some(now_ms);
                    stored.updated_ms = now_ms;
                }
            }
        })
    }

    fn succeed<'a>(
        &'a self,
        _: &'a LedgerIdentity,
        ranges: &'a [OffsetRange],
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement("succeed", &[], move |inner| {
            succeed(inner, now_ms, |position| {
                ranges.iter().any(|range| range.contains(position))
            });
        })
    }

    fn provisional<'a>(
        &'a self,
        _: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Provisional>> {
        self.statement("provisional", &[], move |inner| {
            let provisional = inner.rows_from(from).filter(|(_, stored)| {
                stored.status == LedgerStatus::Failed && stored.row.passed_at_ms.is_none()
            });
            let provisional = provisional.map(|(offset, stored)| Provisional {
                offset,
                fence: stored.row.fence,
            });
            provisional.take(limit).collect()
        })
    }

    fn received_page<'a>(
        &'a self,
        _: &'a LedgerIdentity,
        from: &'a SourcePosition,
        limit: usize,
    ) -> StoreFuture<'a, ReceivedPage> {
        self.statement("received_page", &[], move |inner| {
            inner.asked.push(("received_page", from.offset, limit));
            let page: Vec<_> = inner.rows_from(from).take(limit).collect();
            let last = page.last().filter(|_| page.len() == limit);
            let received = page
                .iter()
                .filter(|(_, stored)| stored.status == LedgerStatus::Received);
            ReceivedPage {
                next: last.map(|(offset, _)| offset + 1),
                rows: received
                    .map(|(offset, stored)| ReceivedRow {
                        offset: *offset,
                        updated_at_ms: stored.updated_ms,
                    })
                    .collect(),
            }
        })
    }

    fn settle<'a>(
        &'a self,
        _: &'a LedgerIdentity,
        positions: &'a [SourcePosition],
        settlement: Settlement,
        before_ms: i64,
        now_ms: i64,
    ) -> StoreFuture<'a, ()> {
        self.statement("settle", &[], move |inner| {
            let first = positions.first().map_or(0, |position| position.offset);
            inner.asked.push(("settle", first, positions.len()));
            for position in positions {
                let (first, last) = ((position.clone(), i64::MIN), (position.clone(), i64::MAX));
                for (_, stored) in inner.rows.range_mut(first..=last) {
                    if stored.status != LedgerStatus::Received || stored.updated_ms >= before_ms {
                        continue;
                    }
                    stored.status = settlement.status();
                    stored.updated_ms = now_ms;
                    match settlement {
                        Settlement::Stale => stored.stale = true,
                        _ => stored.row.passed_at_ms = Some(now_ms),
                    }
                }
            }
        })
    }

    fn prune<'a>(
        &'a self,
        _: &'a LedgerIdentity,
        created_ms: Range<i64>,
        limit: usize,
    ) -> StoreFuture<'a, u64> {
        self.statement("prune", &[], move |inner| {
            inner.asked.push(("prune", created_ms.start, limit));
            let old = inner.rows.iter().filter(|(_, stored)| {
                stored.status == LedgerStatus::Success && created_ms.contains(&stored.created_ms)
            });
            let old: Vec<_> = old.map(|(key, _)| key.clone()).take(limit).collect();
            inner.rows.retain(|key, _| !old.contains(key));
            old.len() as u64
        })
    }
}

impl Inner {
    fn rows_from<'a>(
        &'a self,
        from: &'a SourcePosition,
    ) -> impl Iterator<Item = (i64, &'a StoredRow)> {
        let rows = self.rows.range((from.clone(), i64::MIN)..);
        let rows = rows.take_while(|((position, _), _)| position.partition == from.partition);
        rows.map(|((position, _), stored)| (position.offset, stored))
    }
}

/// Partition 0 of `orders`.
pub(super) fn orders() -> SourcePartition {
    SourcePartition::new("orders", 0)
}

/// A failed record of [`orders`].
pub(crate) fn failed(offset: i64, fence: i64) -> FailureRecord {
    let record = Record::builder("orders", 0, offset)
        .key("k")
        .value("v")
        .timestamp_ms(1)
        .build();
    FailureRecord {
        record,
        target_topic: Some("enriched".into()),
        failure: Failure::of(&TransformError::permanent("no such sku"), 1, fence),
        dead_lettered: false,
        fence,
    }
}

/// The ledger's identity in tests.
pub(crate) fn identity() -> LedgerIdentity {
    LedgerIdentity {
        cluster_id: "c".into(),
        consumer_group: "g".into(),
    }
}

/// Records `from..next` of [`orders`] were passed, these of them as failures.
pub(super) fn passed(from: i64, next: i64, failures: &[i64]) -> Passed {
    let range = OffsetRange {
        partition: orders(),
        from,
        next,
    };
    Passed {
        ranges: vec![range],
        failures: failures.iter().map(|offset| orders().at(*offset)).collect(),
    }
}

/// Waits in virtual time, so that the background gets on.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(7200), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

/// What writes to it, as the strategies do.
pub(super) async fn writer(store: &Arc<FakeStore>) -> Writer {
    let health = Arc::new(LedgerHealth::new(LedgerMetrics::new("test")));
    let guarded = Guarded::new(store.clone(), &LedgerSettings::default(), health.clone());
    guarded.prepare().await.unwrap();
    store.inner().statements.clear();
    Writer::new(guarded, identity(), health, 100, false)
}
