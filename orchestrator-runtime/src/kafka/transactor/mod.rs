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

mod calls;
mod fates;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::{Epoch, SessionFailure, SliceFate, Unit};

use super::membership::Membership;
use crate::kill_points::{KillPoint, kill_point};
use crate::planted::{Bug, planted};

pub use calls::{
    NextOffset, Parts, RefusedOutput, TransactionalProducer, TransactorObserver, TxnClass, TxnError,
};

/// A commit or an abort slower than this may have been retried inside librdkafka: its answer could still overtake.
const SLOW_COMMIT: Duration = Duration::from_secs(1);
/// So often the whole unit is sent again before it is split by partition, and then each partition's part.
const SAME_UNIT_TRIES: u32 = 2;
/// So often a unit may meet a moved generation before that counts as a failed try.
const MEMBERSHIP_TRIES: u32 = 20;

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

/// A unit that is being committed, with what is known of its slices' fates.
#[derive(Debug)]
struct Work<'u> {
    unit: &'u mut Unit,
    fates: Vec<Option<SliceFate>>,
}

impl Work<'_> {
    /// Adds slices; gives their indices.
    fn add(&mut self, part: Unit) -> Range<usize> {
        let from = self.unit.slices.len();
        self.unit.slices.extend(part.slices);
        self.fates.resize(self.unit.slices.len(), None);
        from..self.unit.slices.len()
    }

    /// The slices that have no fate yet, of one partition or of all.
    fn undecided(&self, only: Option<&SourcePartition>) -> Vec<usize> {
        let slices = self.unit.slices.iter().zip(&self.fates).enumerate();
        slices
            .filter(|(_, (slice, fate))| {
                fate.is_none() && only.is_none_or(|only| *only == slice.partition)
            })
            .map(|(index, _)| index)
            .collect()
    }
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

    /// Commits a unit, and what is added to it while its first transaction is open, which is added to `unit` too. Gives
    /// one fate a slice, and why nothing more can be done, if so.
    pub fn commit(
        &mut self,
        unit: &mut Unit,
        parts: &mut impl Parts,
    ) -> (Vec<SliceFate>, Option<SessionFailure>) {
        let fates = vec![None; unit.slices.len()];
        let mut work = Work { unit, fates };
        let ended = self.commit_together(&mut work, parts).err();
        self.membership.leave();
        // Left over when there was no transaction for them.
        work.add(parts.close());
        // After an end, a slice without a fate may or may not be committed; others are not. They are read again.
        let fates = work.fates.into_iter();
        let fates = fates.map(|fate| fate.unwrap_or(SliceFate::Stripped));
        (fates.collect(), ended)
    }

    fn commit_together(
        &mut self,
        work: &mut Work<'_>,
        parts: &mut impl Parts,
    ) -> Result<(), SessionFailure> {
        let Some(error) = self.attempts(work, None, parts)? else {
            return Ok(());
        };
        let all: BTreeSet<_> = work.unit.slices.iter().map(|s| &s.partition).collect();
        let all: Vec<_> = all.into_iter().cloned().collect();
        if all.len() > 1 {
            // Something fails again and again: find out whose part it is, so that the others go on.
            tracing::warn!(%error, "a unit of work failed repeatedly and is split by partition");
        }
        for partition in all {
            if let Some(error) = self.attempts(work, Some(&partition), &mut ())? {
                for index in work.undecided(Some(&partition)) {
                    work.fates[index] = Some(SliceFate::Stuck {
                        error: error.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Tries to commit what has no fate yet, of one partition or of all. Gives the last error if it gave up.
    fn attempts(
        &mut self,
        work: &mut Work<'_>,
        only: Option<&SourcePartition>,
        parts: &mut impl Parts,
    ) -> Result<Option<String>, SessionFailure> {
        // The part of one partition has been tried with the others before.
        let mut again = only.is_some();
        let mut tries = 0;
        let mut moved = 0;
        loop {
            let undecided = work.undecided(only);
            let of = |index: &usize| work.unit.slices[*index].partition.clone();
            let snapshot = self
                .membership
                .enter(undecided.iter().map(of).collect(), again);
            let mut open = Vec::with_capacity(undecided.len());
            self.gate(work, undecided.into_iter(), &mut open, &snapshot.owned);
            if open.is_empty() {
                return Ok(None);
            }
            let result = match &snapshot.metadata {
                None => Err(Failed::Membership),
                Some(metadata) => {
                    self.ensure_producer()?;
                    self.transaction(work, &mut open, metadata, parts)
                }
            };
            // Those that came too late for this transaction go with the next, or are given back.
            work.add(parts.close());
            let error = match result {
                Ok(()) => {
                    for index in open {
                        self.passed(&work.unit.slices[index], work.unit.slices[index].next);
                        work.fates[index] = Some(SliceFate::Committed);
                    }
                    return Ok(None);
                }
                Err(Failed::Refused(refused)) => {
                    self.observer.aborted("refused_output");
                    self.note_refused(work, refused);
                    continue;
                }
                Err(Failed::Membership) => {
                    if snapshot.metadata.is_some() {
                        self.observer.aborted("group_moved_on");
                    }
                    moved += 1;
                    // While our partitions are being revoked the poll thread sits in the callback, and has taken
                    // fresh metadata on entry; waiting is bounded either way.
                    self.producer
                        .await_refresh(&self.membership, snapshot.taken);
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
                    self.settle(work, &open)?;
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

    /// One transaction: begin, produce what there is and what is added meanwhile, send offsets while deliveries are under
    /// way, wait for every delivery, commit.
    fn transaction(
        &mut self,
        work: &mut Work<'_>,
        open: &mut Vec<usize>,
        metadata: &P::Metadata,
        parts: &mut impl Parts,
    ) -> Result<(), Failed> {
        let begun = self.producer.now();
        self.producer.begin().map_err(|error| {
            self.replace_because = Some("begin_failed");
            self.failed_at(error, begun)
        })?;
        kill_point(KillPoint::Begun);
        let mut refused = self.send(work, open);
        // Once something is refused it all has to be sent again anyway.
        while refused.is_empty()
            && let Some(part) = parts.next()
        {
            let added = work.add(part);
            let partitions = work.unit.slices[added.clone()].iter();
            let owned = self
                .membership
                .enter_too(partitions.map(|slice| slice.partition.clone()));
            let before = open.len();
            self.gate(work, added, open, &owned);
            refused = self.send(work, &open[before..]);
        }
        // A revoked partition's part may only go on from within the callback; a lost one's not at all.
        let ours = |index: &usize| {
            let slice = &work.unit.slices[*index];
            self.membership.owns(&slice.partition, slice.epoch) || planted(Bug::KeptOverLoss)
        };
        let goes_on = planted(Bug::NoAbortOnLoss) || planted(Bug::MetadataTakenAtCommit);
        if !open.iter().all(ours) && !goes_on {
            let error = TxnError {
                class: TxnClass::Membership,
                message: "a partition was lost".to_owned(),
            };
            return Err(self.abort(error, begun));
        }
        let mut offsets = BTreeMap::new();
        for index in &*open {
            if planted(Bug::NoAbortOnLoss) && !ours(index) {
                continue;
            }
            let slice = &work.unit.slices[*index];
            let mut next = slice.next;
            if planted(Bug::LastInsteadOfNext) && !slice.done.is_empty() {
                next -= 1;
            }
            offsets.insert(&slice.partition, (next, slice.mark));
        }
        let offsets = offsets
            .into_iter()
            .map(|(partition, (next, mark))| NextOffset {
                partition: partition.clone(),
                next,
                mark,
            });
        let offsets: Vec<_> = offsets.collect();
        let taken_now = planted(Bug::MetadataTakenAtCommit)
            .then(|| self.membership.enter(BTreeSet::new(), true).metadata)
            .flatten();
        let metadata = taken_now.as_deref().unwrap_or(metadata);
        if !planted(Bug::NoSendOffsets)
            && let Err(error) = self.repeat(begun, |p| p.send_offsets(&offsets, metadata))
            && !planted(Bug::CommitAfterFailedSendOffsets)
        {
            return Err(self.abort(error, begun));
        }
        kill_point(KillPoint::OffsetsSent);
        match self.producer.flush() {
            Ok(failed) => refused.extend(failed),
            Err(error) => return Err(self.abort(error, begun)),
        }
        if !refused.is_empty() {
            return Err(self.abort_refused(refused, begun));
        }
        kill_point(KillPoint::Delivered);
        let committing = self.producer.now();
        kill_point(KillPoint::Committing);
        match self.repeat(begun, P::commit) {
            Ok(()) => kill_point(KillPoint::Committed),
            Err(error) => match error.class {
                TxnClass::Abort | TxnClass::Membership => return Err(self.abort(error, begun)),
                TxnClass::Repeat | TxnClass::Fatal => return Err(Failed::Unknown(error.message)),
                TxnClass::Fenced => return Err(self.failed_at(error, begun)),
            },
        }
        let took = self.producer.now() - begun;
        self.observer.committed(took);
        if planted(Bug::ProducerKeptAfterCut) {
            return Ok(());
        }
        if self.producer.disconnected() {
            self.replace_because = Some("disconnected");
        } else if self.producer.now() - committing > SLOW_COMMIT {
            self.replace_because = Some("slow_commit");
        }
        Ok(())
    }

    /// Sends the outputs of these slices; gives those that were not taken.
    fn send(&mut self, work: &Work<'_>, open: &[usize]) -> Vec<RefusedOutput> {
        let mut refused = Vec::new();
        for index in open {
            for done in &work.unit.slices[*index].done {
                for output in done.fate.outputs() {
                    kill_point(KillPoint::Sending);
                    if let Err(error) = self.producer.send(*index, &done.record, output)
                        && !planted(Bug::SendErrorIgnored)
                    {
                        refused.push(error);
                    }
                }
            }
        }
        refused
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
        kill_point(KillPoint::Aborting);
        let aborting = self.producer.now();
        let aborted = self.repeat(begun, P::abort);
        kill_point(KillPoint::Aborted);
        if self.producer.now() - aborting > SLOW_COMMIT {
            self.replace_because = Some("slow_abort");
        }
        match aborted {
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
}
