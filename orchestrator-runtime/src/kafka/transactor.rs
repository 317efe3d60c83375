//! Commits units of work in Kafka transactions: the gate, the order of calls, and what follows when one of them
//! fails. Straight-line and synchronous over [`TransactionalProducer`], so that the model broker of the tests runs
//! the very code that the transaction thread runs. It is the only caller of the transaction API.
//!
//! The rules come from how librdkafka (2.12, transaction protocol v1) was seen to behave:
//! - anything but Ok from `send_offsets` is repeated with the same arguments or ends in abort, never in commit:
//!   a commit would succeed without the offsets;
//! - a record refused by `send` does not poison the transaction, so every refusal must be noticed here;
//! - after a refused record, an unknown outcome, a disconnect or a slow commit the producer is replaced: the same
//!   transactional id, whose epoch is bumped, so that a late request cannot hit the next transaction;
//! - after an unknown outcome only the broker's committed offsets say what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_core::ports::{Epoch, SessionFailure, SliceFate, Unit, UnitSlice};
use orchestrator_core::{Output, Record, SourcePartition, Topic};

use super::membership::{Membership, Snapshot};
use crate::planted::{Bug, planted};

/// A commit slower than this may have been retried inside librdkafka: its answer could still overtake.
const SLOW_COMMIT: Duration = Duration::from_secs(1);
/// How long the poll thread may take to answer with fresh group metadata.
const REFRESH_PATIENCE: Duration = Duration::from_secs(2);
/// So often the whole unit is sent again before it is split by partition, and then each partition's part.
const SAME_UNIT_TRIES: u32 = 2;
/// So often a unit may meet a moved generation before that counts as a failed try.
const MEMBERSHIP_TRIES: u32 = 20;

/// What a failed call means for the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnClass {
    /// The same call may be repeated with the same arguments; nothing is known to have failed.
    Repeat,
    /// The transaction must be aborted.
    Abort,
    /// The transaction must be aborted: the group has moved on (ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID).
    Membership,
    /// The producer is of no more use: a newer one has its transactional id, or the broker timed it out.
    Fenced,
    /// The producer is of no more use, for any other reason.
    Fatal,
}

/// A failed call.
#[derive(Clone, Debug)]
pub struct TxnError {
    /// What it means.
    pub class: TxnClass,
    /// What was said.
    pub message: String,
}

impl fmt::Display for TxnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An output that was not taken, by `send` or by the broker.
#[derive(Clone, Debug)]
pub struct RefusedOutput {
    /// The index it was sent with: which slice it belongs to.
    pub slice: usize,
    /// Where it was to go.
    pub topic: Topic,
    /// What was said.
    pub message: String,
    /// Whether this output (or its topic) is to blame, rather than the connection.
    pub blames_output: bool,
    /// Whether trying again could not help.
    pub permanent: bool,
}

/// A transactional producer with its transactional id, replaceable. Calls block, each within a bound of its own.
pub trait TransactionalProducer: Send {
    /// The consumer group metadata it takes.
    type Metadata: Send + Sync;

    /// Puts a new producer in the place of the old one (if any) and initialises it. To be repeated when it fails.
    fn replace(&mut self) -> Result<(), TxnError>;
    /// Begins a transaction.
    fn begin(&mut self) -> Result<(), TxnError>;
    /// Sends one output of `record`; `slice` comes back in a [`RefusedOutput`]. Waits while the queue is full.
    fn send(&mut self, slice: usize, record: &Record, output: &Output)
    -> Result<(), RefusedOutput>;
    /// Waits until every output is delivered or has failed, and gives those that failed.
    fn flush(&mut self) -> Result<Vec<RefusedOutput>, TxnError>;
    /// Sends the next offsets to the transaction.
    fn send_offsets(
        &mut self,
        offsets: &[(SourcePartition, i64)],
        metadata: &Self::Metadata,
    ) -> Result<(), TxnError>;
    /// Commits the transaction.
    fn commit(&mut self) -> Result<(), TxnError>;
    /// Aborts the transaction.
    fn abort(&mut self) -> Result<(), TxnError>;
    /// The group's committed offsets, once no transaction that could change them is open.
    fn committed(
        &mut self,
        partitions: &BTreeSet<SourcePartition>,
    ) -> Result<BTreeMap<SourcePartition, Option<i64>>, TxnError>;
    /// Whether a broker connection was lost since `begin`.
    fn disconnected(&self) -> bool;
    /// How long a transaction may stay open (`transaction.timeout.ms`).
    fn transaction_timeout(&self) -> Duration;
    /// The time.
    fn now(&self) -> Instant;
    /// Waits a little before something is tried again; `false` if there is to be no more trying.
    fn pause(&mut self, tries: u32) -> bool;
    /// Waits until the poll thread has taken fresh group metadata, within bounds.
    fn await_refresh(&mut self, membership: &Membership<Self::Metadata>) {
        membership.await_refresh(REFRESH_PATIENCE);
    }
}

/// What the transactor tells whoever counts. Reasons are few and fixed: they are labels of metrics.
pub trait TransactorObserver: Send {
    /// A transaction was committed, so long after it was begun.
    fn committed(&mut self, _took: Duration) {}
    /// A transaction was aborted.
    fn aborted(&mut self, _reason: &'static str) {}
    /// The producer was replaced.
    fn replaced(&mut self, _reason: &'static str) {}
    /// A unit's part was left out at the gate.
    fn stripped(&mut self, _partition: &SourcePartition, _records: usize) {}
}

impl TransactorObserver for () {}

/// Commits units over a producer, by the snapshots of a membership.
#[derive(Debug)]
pub struct Transactor<P: TransactionalProducer, O = ()> {
    producer: P,
    membership: Arc<Membership<P::Metadata>>,
    observer: O,
    /// Where each partition stands: the gate.
    positions: BTreeMap<SourcePartition, (Epoch, i64)>,
    /// Why the producer must be replaced before the next transaction, if it must.
    replace_because: Option<&'static str>,
}

/// How one transaction ended without being committed.
enum Failed {
    /// It is aborted (or was never begun); the same unit may be sent again.
    Aborted(String),
    /// It is aborted; the group has moved on.
    Membership,
    /// It is aborted or lost; these outputs are refused.
    Refused(Vec<RefusedOutput>),
    /// Nobody knows yet.
    Unknown(String),
    /// A newer producer has our transactional id.
    Fenced(String),
}

impl<P: TransactionalProducer, O: TransactorObserver> Transactor<P, O> {
    /// A transactor whose producer is initialised with its first unit, or by [`prepare`](Self::prepare).
    pub fn new(producer: P, membership: Arc<Membership<P::Metadata>>, observer: O) -> Self {
        Self {
            producer,
            membership,
            observer,
            positions: BTreeMap::new(),
            replace_because: Some("start"),
        }
    }

    /// Initialises the producer now, so that an earlier one's open transaction ends before anything is read.
    pub fn prepare(&mut self) -> Result<(), SessionFailure> {
        self.ensure_producer()
    }

    /// The producer.
    pub fn producer(&mut self) -> &mut P {
        &mut self.producer
    }

    /// Commits a unit: gives one fate a slice, and why nothing more can be done, if so.
    pub fn commit(&mut self, unit: &Unit) -> (Vec<SliceFate>, Option<SessionFailure>) {
        let mut fates = vec![None; unit.slices.len()];
        let ended = self.commit_together(unit, &mut fates).err();
        self.membership.leave();
        // Only after an end is there a slice without a fate; it may or may not be committed, and is read again.
        let fates = fates
            .into_iter()
            .map(|fate| fate.unwrap_or(SliceFate::Stripped));
        (fates.collect(), ended)
    }

    fn commit_together(
        &mut self,
        unit: &Unit,
        fates: &mut [Option<SliceFate>],
    ) -> Result<(), SessionFailure> {
        let all: BTreeSet<_> = unit.slices.iter().map(|s| s.partition.clone()).collect();
        let Some(error) = self.attempts(unit, &all, fates, false)? else {
            return Ok(());
        };
        if all.len() > 1 {
            // Something fails again and again: find out whose part it is, so that the others go on.
            tracing::warn!(%error, "a unit of work failed repeatedly and is split by partition");
        }
        for partition in all {
            let one = BTreeSet::from([partition]);
            if let Some(error) = self.attempts(unit, &one, fates, true)? {
                for (slice, fate) in unit.slices.iter().zip(fates.iter_mut()) {
                    if one.contains(&slice.partition) && fate.is_none() {
                        *fate = Some(SliceFate::Stuck {
                            error: error.clone(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Tries to commit the parts of `partitions` that have no fate yet. Gives the last error if it gave up.
    fn attempts(
        &mut self,
        unit: &Unit,
        partitions: &BTreeSet<SourcePartition>,
        fates: &mut [Option<SliceFate>],
        mut again: bool,
    ) -> Result<Option<String>, SessionFailure> {
        let mut tries = 0;
        let mut moved = 0;
        loop {
            let snapshot = self.membership.enter(partitions.clone(), again);
            let open = self.gate(unit, partitions, fates, &snapshot);
            if open.is_empty() {
                return Ok(None);
            }
            let result = match &snapshot.metadata {
                None => Err(Failed::Membership),
                Some(metadata) => {
                    self.ensure_producer()?;
                    self.transaction(&open, metadata)
                }
            };
            let error = match result {
                Ok(()) => {
                    for (index, slice) in &open {
                        self.passed(slice, slice.next);
                        fates[*index] = Some(SliceFate::Committed);
                    }
                    return Ok(None);
                }
                Err(Failed::Refused(refused)) => {
                    self.observer.aborted("refused_output");
                    self.note_refused(unit, fates, refused);
                    continue;
                }
                Err(Failed::Membership) => {
                    if snapshot.metadata.is_some() {
                        self.observer.aborted("group_moved_on");
                    }
                    moved += 1;
                    // While our partitions are being revoked the poll thread sits in the callback, and has taken
                    // fresh metadata on entry; waiting is bounded either way.
                    self.producer.await_refresh(&self.membership);
                    if moved % MEMBERSHIP_TRIES != 0 {
                        again = true;
                        continue;
                    }
                    "the consumer group keeps moving on".to_owned()
                }
                Err(Failed::Aborted(error)) => {
                    self.observer.aborted("failed_call");
                    error
                }
                Err(Failed::Unknown(error)) => {
                    tracing::warn!(%error, "the outcome of a transaction is unknown: asking the broker");
                    self.replace_because = Some("unknown_outcome");
                    self.settle(unit, &open, fates)?;
                    error
                }
                Err(Failed::Fenced(error)) => return Err(SessionFailure::Fenced(error)),
            };
            again = true;
            tries += 1;
            if tries >= SAME_UNIT_TRIES {
                return Ok(Some(error));
            }
            if !self.producer.pause(tries) {
                return Err(SessionFailure::Broken(error));
            }
        }
    }

    /// The gate: lets a slice through only if its partition is ours in its epoch and it begins where the partition
    /// stands. What does not is stripped, and so is everything of that partition after it.
    fn gate<'u>(
        &mut self,
        unit: &'u Unit,
        partitions: &BTreeSet<SourcePartition>,
        fates: &mut [Option<SliceFate>],
        snapshot: &Snapshot<P::Metadata>,
    ) -> Vec<(usize, &'u UnitSlice)> {
        let mut open = Vec::with_capacity(unit.slices.len());
        let mut reached = BTreeMap::new();
        for (index, slice) in unit.slices.iter().enumerate() {
            if fates[index].is_some() || !partitions.contains(&slice.partition) {
                continue;
            }
            let stands = reached.get(&slice.partition).copied().or_else(|| {
                let owned = snapshot.owned.get(&slice.partition)?;
                Some(match self.positions.get(&slice.partition) {
                    Some((epoch, position)) if *epoch == owned.epoch => (*epoch, *position),
                    _ => (owned.epoch, owned.start),
                })
            });
            let fits = stands == Some((slice.epoch, slice.from)) || planted(Bug::GateLetsHolesPass);
            if fits {
                reached.insert(&slice.partition, (slice.epoch, slice.next));
                open.push((index, slice));
            } else {
                self.observer.stripped(&slice.partition, slice.done.len());
                fates[index] = Some(SliceFate::Stripped);
            }
        }
        open
    }

    /// One transaction: begin, produce, wait for every delivery, send offsets, commit.
    fn transaction(
        &mut self,
        open: &[(usize, &UnitSlice)],
        metadata: &P::Metadata,
    ) -> Result<(), Failed> {
        let begun = self.producer.now();
        self.producer.begin().map_err(|error| {
            self.replace_because = Some("begin_failed");
            self.failed_at(error, begun)
        })?;
        let mut refused = Vec::new();
        for (index, slice) in open {
            for done in &slice.done {
                for output in done.fate.outputs() {
                    if let Err(error) = self.producer.send(*index, &done.record, output)
                        && !planted(Bug::SendErrorIgnored)
                    {
                        refused.push(error);
                    }
                }
            }
        }
        match self.producer.flush() {
            Ok(failed) => refused.extend(failed),
            Err(error) => return Err(self.abort(error, begun)),
        }
        if !refused.is_empty() {
            return Err(self.abort_refused(refused, begun));
        }
        // A revoked partition's part may only go on from within the callback; a lost one's not at all.
        let ours =
            |(_, slice): &(usize, &UnitSlice)| self.membership.owns(&slice.partition, slice.epoch);
        if !open.iter().all(ours) {
            let error = TxnError {
                class: TxnClass::Membership,
                message: "a partition was lost".to_owned(),
            };
            return Err(self.abort(error, begun));
        }
        let mut offsets = BTreeMap::new();
        for (_, slice) in open {
            let next = slice.next - i64::from(planted(Bug::LastInsteadOfNext));
            offsets.insert(slice.partition.clone(), next);
        }
        let offsets: Vec<_> = offsets.into_iter().collect();
        if !planted(Bug::NoSendOffsets)
            && let Err(error) = self.repeat(begun, |p| p.send_offsets(&offsets, metadata))
            && !planted(Bug::CommitAfterFailedSendOffsets)
        {
            return Err(self.abort(error, begun));
        }
        let committing = self.producer.now();
        match self.repeat(begun, P::commit) {
            Ok(()) => {}
            Err(error) => match error.class {
                TxnClass::Abort | TxnClass::Membership => return Err(self.abort(error, begun)),
                TxnClass::Repeat | TxnClass::Fatal => return Err(Failed::Unknown(error.message)),
                TxnClass::Fenced => return Err(self.failed_at(error, begun)),
            },
        }
        let took = self.producer.now() - begun;
        self.observer.committed(took);
        if self.producer.disconnected() {
            self.replace_because = Some("disconnected");
        } else if self.producer.now() - committing > SLOW_COMMIT {
            self.replace_because = Some("slow_commit");
        }
        Ok(())
    }

    /// Repeats a call while its error says so and half the transaction's time is not up.
    fn repeat(
        &mut self,
        begun: Instant,
        mut call: impl FnMut(&mut P) -> Result<(), TxnError>,
    ) -> Result<(), TxnError> {
        let mut tries = 0;
        loop {
            match call(&mut self.producer) {
                Err(error) if error.class == TxnClass::Repeat => {
                    tries += 1;
                    let spent = self.producer.now() - begun;
                    if spent > self.producer.transaction_timeout() / 2
                        || !self.producer.pause(tries)
                    {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }

    /// Aborts because of `error`.
    fn abort(&mut self, error: TxnError, begun: Instant) -> Failed {
        match error.class {
            TxnClass::Fenced | TxnClass::Fatal => return self.failed_at(error, begun),
            TxnClass::Repeat | TxnClass::Abort | TxnClass::Membership => {}
        }
        // A moved generation is an ordinary event and leaves a clean producer behind; nothing else does.
        if error.class != TxnClass::Membership || self.producer.disconnected() {
            self.replace_because = Some("aborted");
        }
        match self.repeat(begun, P::abort) {
            Ok(()) if error.class == TxnClass::Membership => Failed::Membership,
            Ok(()) => Failed::Aborted(error.message),
            // A commit may have been asked for before, and then nobody knows which of the two the broker did.
            Err(abort) => {
                tracing::warn!(error = %abort, because = %error, "a transaction could not be aborted");
                self.failed_at(abort, begun)
            }
        }
    }

    /// Aborts because outputs were refused. The next transaction to that partition would always fail with the same
    /// producer (OUT_OF_ORDER_SEQUENCE_NUMBER), so it is replaced.
    fn abort_refused(&mut self, refused: Vec<RefusedOutput>, begun: Instant) -> Failed {
        let message = refused[0].message.clone();
        let error = TxnError {
            class: TxnClass::Abort,
            message,
        };
        let to_blame: Vec<_> = refused.into_iter().filter(|r| r.blames_output).collect();
        match self.abort(error, begun) {
            Failed::Aborted(_) if !to_blame.is_empty() => Failed::Refused(to_blame),
            failed => failed,
        }
    }

    /// What a fatal error before or at commit means. One that comes later than the transaction's time-out is the
    /// broker's own doing; an earlier one is another producer's.
    fn failed_at(&mut self, error: TxnError, begun: Instant) -> Failed {
        let young = self.producer.now() - begun < self.producer.transaction_timeout();
        match error.class {
            TxnClass::Fenced if young => Failed::Fenced(error.message),
            _ => {
                self.replace_because = Some("fatal_error");
                Failed::Unknown(error.message)
            }
        }
    }

    /// Asks the broker what became of a unit whose outcome is unknown. The new producer's initialisation has ended
    /// the old transaction, so the answer is final; our memory is not asked.
    fn settle(
        &mut self,
        unit: &Unit,
        open: &[(usize, &UnitSlice)],
        fates: &mut [Option<SliceFate>],
    ) -> Result<(), SessionFailure> {
        let partitions: BTreeSet<_> = open.iter().map(|(_, s)| s.partition.clone()).collect();
        if planted(Bug::RewindFromMemory) {
            return Ok(());
        }
        let mut tries = 0;
        let committed = loop {
            self.ensure_producer()?;
            match self.producer.committed(&partitions) {
                Ok(committed) => break committed,
                Err(error) => {
                    tries += 1;
                    if !self.producer.pause(tries) {
                        return Err(SessionFailure::Broken(error.message));
                    }
                }
            }
        };
        let mut first = BTreeSet::new();
        for (index, slice) in open {
            let is_first = first.insert(&slice.partition);
            let stands = committed.get(&slice.partition).copied().flatten();
            match stands {
                Some(at) if at >= slice.next => {
                    self.passed(slice, slice.next);
                    fates[*index] = Some(SliceFate::Committed);
                }
                // Not committed, and still where it was: the same unit may be sent again.
                Some(at) if at == slice.from || !is_first => {}
                None => {}
                Some(at) => fates[*index] = Some(SliceFate::Rewind { to: at }),
            }
        }
        // A rewound partition's later slices go with it.
        for index in 0..fates.len() {
            if fates[index].is_none() {
                let partition = &unit.slices[index].partition;
                let rewound = (0..index).rev().find_map(|earlier| match &fates[earlier] {
                    Some(SliceFate::Rewind { to })
                        if &unit.slices[earlier].partition == partition =>
                    {
                        Some(*to)
                    }
                    _ => None,
                });
                if let Some(to) = rewound {
                    fates[index] = Some(SliceFate::Rewind { to });
                }
            }
        }
        for (index, slice) in open {
            if let Some(SliceFate::Rewind { to }) = fates[*index] {
                self.passed(slice, to);
            }
        }
        Ok(())
    }

    fn note_refused(
        &mut self,
        unit: &Unit,
        fates: &mut [Option<SliceFate>],
        refused: Vec<RefusedOutput>,
    ) {
        for refused in refused {
            if fates[refused.slice].is_none() {
                tracing::warn!(topic = %refused.topic, error = %refused.message, "an output was refused");
                fates[refused.slice] = Some(SliceFate::Refused {
                    error: refused.message,
                    topic: refused.topic,
                    permanent: refused.permanent,
                });
            }
        }
        // What follows a refused slice in its partition cannot go before it.
        let mut behind = BTreeSet::new();
        for (slice, fate) in unit.slices.iter().zip(fates.iter_mut()) {
            match fate {
                Some(SliceFate::Refused { .. }) => {
                    behind.insert(&slice.partition);
                }
                None if behind.contains(&slice.partition) => *fate = Some(SliceFate::Stripped),
                _ => {}
            }
        }
    }

    fn ensure_producer(&mut self) -> Result<(), SessionFailure> {
        let mut tries = 0;
        while let Some(reason) = self.replace_because {
            if reason != "start" && planted(Bug::ProducerKept) {
                self.replace_because = None;
                break;
            }
            match self.producer.replace() {
                Ok(()) => {
                    self.observer.replaced(reason);
                    self.replace_because = None;
                }
                Err(error) => {
                    tries += 1;
                    tracing::warn!(%error, tries, "the transactional producer cannot be initialised; trying on");
                    if !self.producer.pause(tries) {
                        return Err(SessionFailure::Broken(error.message));
                    }
                }
            }
        }
        Ok(())
    }

    fn passed(&mut self, slice: &UnitSlice, next: i64) {
        self.positions
            .insert(slice.partition.clone(), (slice.epoch, next));
    }
}
