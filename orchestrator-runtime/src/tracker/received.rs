//! What OUTBOX and RELIABLE write beside failures: a RECEIVED row of every record before it is transformed, and
//! SUCCESS when it is passed. The first is waited for, the second follows in the background. Bulk or a statement a
//! record: that is the only difference between the two.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, stream};
use orchestrator_core::ledger_row::LedgerRow;
use orchestrator_core::{
    FailureStore, Passed, Record, SourcePartition, SourcePosition, StoreError, Taken,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::built_in::State;
use super::drops::DropReason;
use super::in_flight::InFlight;
use super::replay::distinct;
use super::spill::Entry;
use super::successes::Successes;
use super::writer::RowKind;
use crate::clock::now_ms;

/// So many records at least share a budget, for each statement that may run at once.
const AT_LEAST: usize = 20;

/// Rows beyond this many bytes wait without payload, key and headers, whatever their number.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Rows that wait, and what they take.
#[derive(Debug, Default)]
struct Waiting {
    rows: VecDeque<LedgerRow>,
    bytes: usize,
    /// The last offset of each partition among them.
    last: HashMap<SourcePartition, i64>,
    /// Records that were passed as failures, some of them among these: of those there is another row.
    failed: HashSet<SourcePosition>,
}

impl Waiting {
    fn push(&mut self, mut row: LedgerRow) {
        if self.bytes + row.size() > MAX_BYTES {
            row = row.bare();
        }
        self.bytes += row.size();
        let SourcePosition { partition, offset } = &row.position;
        match self.last.get_mut(partition) {
            Some(last) => *last = *offset,
            None => drop(self.last.insert(partition.clone(), *offset)),
        }
        self.rows.push_back(row);
    }

    /// Brings back one that was taken out, to come before all others.
    fn push_first(&mut self, row: LedgerRow) {
        self.bytes += row.size();
        let SourcePosition { partition, offset } = &row.position;
        let last = self.last.entry(partition.clone()).or_insert(*offset);
        *last = (*offset).max(*last);
        self.rows.push_front(row);
    }

    fn remove(&mut self, count: usize) {
        for row in self.rows.drain(..count) {
            self.bytes -= row.size();
        }
        if self.rows.is_empty() {
            *self = Self::default();
        }
    }

    /// Records were passed as failures.
    fn failed(&mut self, failures: &[SourcePosition]) {
        let last = |partition| self.last.get(partition).copied().unwrap_or(i64::MIN);
        let may_wait = failures.iter().filter(|f| f.offset <= last(&f.partition));
        self.failed.extend(may_wait.cloned());
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Notes {
    in_flight: Mutex<InFlight>,
    /// RECEIVED rows that wait for the database.
    rows: Mutex<Waiting>,
    successes: Mutex<Successes>,
    /// Held by whoever takes something out.
    turn: tokio::sync::Mutex<()>,
    /// Rung when there is something for the background to tell the database.
    pub(super) wake: Notify,
    /// Rung when there are fewer successes to tell.
    fewer: Notify,
    /// Records of one statement.
    at_a_time: usize,
    /// Statements at once.
    at_once: usize,
    /// So many rows, and so many records that have succeeded, wait at the most.
    max_waiting: usize,
    keep_payload: bool,
}

impl Notes {
    pub(super) fn new(
        (at_a_time, at_once): (usize, usize),
        max_waiting: usize,
        keep_payload: bool,
    ) -> Self {
        Self {
            in_flight: Mutex::default(),
            rows: Mutex::default(),
            successes: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            fewer: Notify::new(),
            at_a_time,
            at_once,
            max_waiting,
            keep_payload,
        }
    }

    pub(super) fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        lock(&self.in_flight)
    }

    /// How many RECEIVED rows wait.
    pub(super) fn rows_waiting(&self) -> usize {
        lock(&self.rows).rows.len()
    }

    /// How many rows and successes wait.
    pub(super) fn waiting(&self) -> usize {
        self.rows_waiting() + lock(&self.successes).records()
    }

    /// How many statements are run before anybody looks at what they did: several that run at once should not have to
    /// wait for the slowest of them all the time.
    fn statements(&self, at_a_time: usize) -> usize {
        self.at_once * AT_LEAST.div_ceil(at_a_time)
    }

    /// Whether nothing is left to write.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting() == 0
    }

    /// The first record of a partition whose success the database was not told yet, as far as it waits here. Not
    /// while some are on their way elsewhere.
    pub(super) async fn first_untold(&self, partition: &SourcePartition) -> Option<i64> {
        let _turn = self.turn.lock().await;
        lock(&self.successes).first_of(partition)
    }

    /// The rows of passed records that are lost when the process ends now.
    pub(super) fn abandon(&self) -> Vec<String> {
        let in_flight = self.in_flight();
        let Waiting { rows, failed, .. } = std::mem::take(&mut *lock(&self.rows));
        let lost = rows
            .into_iter()
            .filter(|row| !in_flight.contains(&row.position) && !failed.contains(&row.position));
        lost.map(|row| row.dedup_key).collect()
    }

    /// Everything that waits, for the journal, and how many records each run of successes has.
    fn take_all(&self) -> (Vec<Entry>, Vec<usize>) {
        let rows = std::mem::take(&mut *lock(&self.rows)).rows.into_iter();
        let rows = rows.map(|row| Entry::Received(Box::new(row)));
        let successes = lock(&self.successes).take_all();
        let records = successes.iter().map(|(run, _)| run.records).collect();
        let successes = successes.into_iter().map(|(run, at_ms)| Entry::Succeeded {
            range: run.range,
            at_ms,
        });
        (rows.chain(successes).collect(), records)
    }
}

impl State {
    /// Has the database note records that are about to be transformed.
    pub(super) async fn received(&self, taken: &[Taken]) -> Result<(), StoreError> {
        let Some(notes) = &self.notes else {
            return Ok(());
        };
        self.wait_for_successes(notes).await;
        let mut records: Vec<(&Record, i64)> = Vec::new();
        for Taken {
            records: some,
            fence,
        } in taken
        {
            records.extend(some.iter().map(|record| (record, *fence)));
        }
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let at_a_time = self.at_a_time(notes);
            let size = notes.statements(at_a_time) * at_a_time;
            let (some, more) = rest.split_at(size.min(rest.len()));
            self.receive(notes, some).await?;
            rest = more;
        }
        self.report();
        Ok(())
    }

    /// Records of one statement, given what the database does in time.
    fn at_a_time(&self, notes: &Notes) -> usize {
        notes.at_a_time.min(self.writer.store.rows_per_statement())
    }

    /// Records with their fences, as many as go at once.
    async fn receive(&self, notes: &Notes, records: &[(&Record, i64)]) -> Result<(), StoreError> {
        let missed = if self.strict || self.writer.store.is_flowing() {
            let rows = rows(notes, records);
            let written = self.write_received(notes, &rows).await;
            match written {
                Ok(()) => false,
                Err(error) if self.strict => return Err(error),
                // They may have been written for all that: whatever comes, these are kept.
                Err(_) => !self.keep_received(notes, rows, true).await,
            }
        } else {
            let room =
                self.spill.is_some() || notes.rows_waiting() + records.len() <= notes.max_waiting;
            !(room && self.keep_received(notes, rows(notes, records), false).await)
        };
        let records = records.iter().map(|(record, _)| *record);
        notes.in_flight().noted(records, missed);
        Ok(())
    }

    async fn write_received(&self, notes: &Notes, rows: &[LedgerRow]) -> Result<(), StoreError> {
        let mut statements = Vec::new();
        for some in rows.chunks(self.at_a_time(notes)) {
            statements.push(self.writer.write_rows(RowKind::Received, some));
        }
        let write = all(statements, notes.at_once);
        timeout_at(Instant::now() + self.batch_budget, write)
            .await
            .unwrap_or_else(|_| Err(super::writer::over_budget()))
    }

    /// Keeps rows for when the database is back, in the journal if there is one; `false` if there is no room.
    async fn keep_received(&self, notes: &Notes, rows: Vec<LedgerRow>, must: bool) -> bool {
        let entries = rows.into_iter().map(|row| Entry::Received(Box::new(row)));
        let left = match &self.spill {
            Some(spill) => spill.append(entries.collect()).await,
            None => entries.collect(),
        };
        self.wake.notify_one();
        let mut waiting = lock(&notes.rows);
        if !must && waiting.rows.len() + left.len() > notes.max_waiting {
            return false;
        }
        for entry in left {
            if let Entry::Received(row) = entry {
                waiting.push(*row);
            }
        }
        true
    }

    /// Records were passed: those that succeeded are told the database later, those without a row are counted.
    pub(super) async fn succeeded(&self, passed: &Passed) {
        let Some(notes) = &self.notes else {
            return;
        };
        let at_ms = now_ms();
        lock(&notes.rows).failed(&passed.failures);
        let at_a_time = self.at_a_time(notes);
        let gone = notes.in_flight().passed(passed, at_a_time);
        if !gone.missed.is_empty() {
            let reason = match self.spill {
                Some(_) => DropReason::SpillFull,
                None => DropReason::QueueFull,
            };
            self.writer
                .drops
                .missing(&self.writer.health, reason, &gone.missed);
        }
        if gone.succeeded.is_empty() {
            return;
        }
        {
            let mut successes = lock(&notes.successes);
            for run in gone.succeeded {
                successes.push(run, at_ms, at_a_time);
            }
        }
        // Else the background does it.
        if let Ok(_turn) = notes.turn.try_lock() {
            self.spill_notes(notes).await;
        }
        notes.wake.notify_one();
    }

    /// Puts what waits into the journal, if that is where it has to go: while the database is in trouble, and as long
    /// as the journal holds what has to be written before.
    async fn spill_notes(&self, notes: &Notes) {
        let Some(spill) = self.spill_now() else {
            return;
        };
        if spill.is_stuck() {
            return;
        }
        let (entries, records) = notes.take_all();
        let left = spill.append(entries).await;
        // What does not fit waits in memory; there is little of it. It is the last of what there was.
        let mut records = records.into_iter().rev();
        for entry in left.into_iter().rev() {
            match entry {
                Entry::Received(row) => lock(&notes.rows).push_first(*row),
                Entry::Succeeded { range, at_ms } => {
                    let records = records.next().unwrap_or(1);
                    let run = super::in_flight::Run { range, records };
                    lock(&notes.successes).push_first(run, at_ms);
                }
                Entry::Failed(_) | Entry::Passed { .. } => {}
            }
        }
        if self.writer.store.is_flowing() {
            self.wake.notify_one();
        }
    }

    /// Tells the database what waits: rows first. `false` if nothing waits.
    pub(super) async fn tell(&self, notes: &Notes) -> Result<bool, StoreError> {
        let _turn = notes.turn.lock().await;
        if self.spill_now().is_some() {
            // Their rows may still be in the journal: it comes first, and they follow it there.
            self.spill_notes(notes).await;
            if self.journal_holds_some() || notes.is_idle() {
                return Ok(false);
            }
            // It takes nothing, and holds nothing that they would overtake.
        }
        if let Some(refusal) = self.writer.store.refusal() {
            return Err(refusal);
        }
        let rows: Vec<LedgerRow> = {
            // What was taken again after a rewind is in there twice.
            let rows = &mut lock(&notes.rows).rows;
            distinct(
                rows.make_contiguous(),
                self.writer.store.rows_per_statement(),
            )
            .to_vec()
        };
        if !rows.is_empty() {
            self.writer.write_rows(RowKind::Received, &rows).await?;
            lock(&notes.rows).remove(rows.len());
            return Ok(true);
        }
        let at_a_time = self.at_a_time(notes);
        let chunks = lock(&notes.successes).take(at_a_time, notes.statements(at_a_time));
        if chunks.is_empty() {
            return Ok(false);
        }
        let (store, ledger) = (&self.writer.store, &self.writer.ledger);
        let mut statements = Vec::new();
        for chunk in &chunks {
            statements.push(async move {
                let told = store.succeed(ledger, &chunk.ranges, chunk.at_ms).await;
                super::writer::refused_alone(told, chunk.ranges.len())
            });
        }
        all(statements, notes.at_once).await?;
        lock(&notes.successes).done();
        notes.fewer.notify_waiters();
        Ok(true)
    }

    /// Lets the database catch up: records are not taken faster than they can be told.
    async fn wait_for_successes(&self, notes: &Notes) {
        let until = Instant::now() + self.batch_budget;
        loop {
            let fewer = notes.fewer.notified();
            if lock(&notes.successes).records() <= notes.max_waiting
                || !(self.strict || self.writer.store.is_flowing())
                || timeout_at(until, fewer).await.is_err()
            {
                return;
            }
        }
    }
}

/// Runs statements, some at once, and gives the first error. One that fails is no reason to break off those beside it:
/// they may do well, and one of them may be what the circuit waits for.
async fn all(
    statements: Vec<impl Future<Output = Result<(), StoreError>>>,
    at_once: usize,
) -> Result<(), StoreError> {
    let running = stream::iter(statements).buffer_unordered(at_once);
    running
        .fold(Ok(()), async |first, next| first.and(next))
        .await
}

fn rows(notes: &Notes, records: &[(&Record, i64)]) -> Vec<LedgerRow> {
    let row =
        |(record, fence): &(&Record, i64)| LedgerRow::received(record, *fence, notes.keep_payload);
    records.iter().map(row).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "received_tests.rs"]
mod tests;
