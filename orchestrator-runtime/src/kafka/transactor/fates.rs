//! What becomes of each slice of a unit: let through or stripped at the gate, refused, or as the broker says it stands
//! after an unknown outcome. Part of the transactor.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::{SessionFailure, SliceFate, UnitSlice};

use super::super::membership::Owned;
use super::{RefusedOutput, TransactionalProducer, Transactor, TransactorObserver, Work};
use crate::planted::{Bug, planted};

impl<P: TransactionalProducer, O: TransactorObserver> Transactor<P, O> {
    /// The gate: lets a slice through only if its partition is ours in its epoch and it begins where the partition
    /// stands. What does not is stripped, and so is everything of that partition after it. What passes is added to
    /// `open`.
    pub(super) fn gate(
        &mut self,
        work: &mut Work<'_>,
        candidates: impl Iterator<Item = usize>,
        open: &mut Vec<usize>,
        owned: &BTreeMap<SourcePartition, Owned>,
    ) {
        let Work { unit, fates } = work;
        let mut reached = BTreeMap::new();
        for index in &*open {
            let slice = &unit.slices[*index];
            reached.insert(&slice.partition, (slice.epoch, slice.next));
        }
        for index in candidates {
            let slice = &unit.slices[index];
            let stands = reached.get(&slice.partition).copied().or_else(|| {
                let owned = owned.get(&slice.partition)?;
                Some(match self.positions.get(&slice.partition) {
                    Some((epoch, position)) if *epoch == owned.epoch => (*epoch, *position),
                    _ => (owned.epoch, owned.start),
                })
            });
            let fits = stands == Some((slice.epoch, slice.from))
                || planted(Bug::GateLetsHolesPass)
                || planted(Bug::KeptOverLoss) && stands.is_some_and(|(_, at)| at == slice.from);
            if fits {
                reached.insert(&slice.partition, (slice.epoch, slice.next));
                open.push(index);
            } else {
                self.observer.stripped(&slice.partition, slice.done.len());
                fates[index] = Some(SliceFate::Stripped);
            }
        }
    }

    pub(super) fn note_refused(&mut self, work: &mut Work<'_>, refused: Vec<RefusedOutput>) {
        let Work { unit, fates } = work;
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

    /// Asks the broker what became of a unit whose outcome is unknown. The new producer's initialisation has ended
    /// the old transaction, so the answer is final; our memory is not asked.
    pub(super) fn settle(
        &mut self,
        work: &mut Work<'_>,
        open: &[usize],
    ) -> Result<(), SessionFailure> {
        if planted(Bug::RewindFromMemory) {
            return Ok(());
        }
        let Work { unit, fates } = work;
        let mut parts: BTreeMap<&SourcePartition, Vec<(usize, &UnitSlice)>> = BTreeMap::new();
        for index in open {
            let slice = &unit.slices[*index];
            parts
                .entry(&slice.partition)
                .or_default()
                .push((*index, slice));
        }
        let committed = self.committed_of(&parts)?;
        for (partition, slices) in parts {
            // No longer ours: the gate strips it.
            let Some(stands) = committed.get(partition) else {
                continue;
            };
            let (Some((_, first)), Some((_, last))) = (slices.first(), slices.last()) else {
                continue;
            };
            // What is yet to be remembered is of our own choice, and what stands there may be any older offset.
            let is_new = first.done.is_empty() && first.from == first.next;
            // And of a mark that moves no offset nothing can be known: it is sent again, which changes nothing.
            let moves = first.from != last.next;
            match *stands {
                Some(at) if at == last.next && moves => {
                    self.passed(last, last.next);
                    for (index, _) in slices {
                        fates[index] = Some(SliceFate::Committed);
                    }
                }
                // Not committed, and still where it was: the same unit may be sent again.
                Some(at) if at == first.from || is_new => {}
                None => {}
                Some(to) => {
                    self.passed(last, to);
                    for (index, _) in slices {
                        fates[index] = Some(SliceFate::Rewind { to });
                    }
                }
            }
        }
        Ok(())
    }

    /// The committed offsets of all these partitions that are still ours. One without an answer is asked for again:
    /// to take it for one without an offset would be to send again what may be committed.
    fn committed_of(
        &mut self,
        parts: &BTreeMap<&SourcePartition, Vec<(usize, &UnitSlice)>>,
    ) -> Result<BTreeMap<SourcePartition, Option<i64>>, SessionFailure> {
        let mut committed = BTreeMap::new();
        let mut tries = 0;
        loop {
            self.ensure_producer()?;
            let unanswered = parts.iter().filter(|(partition, slices)| {
                !committed.contains_key(**partition)
                    && self.membership.owns(partition, slices[0].1.epoch)
            });
            let unanswered: BTreeSet<_> = unanswered.map(|(p, _)| (*p).clone()).collect();
            if unanswered.is_empty() {
                return Ok(committed);
            }
            let error = match self.producer.committed(&unanswered) {
                Ok(answer) => {
                    committed.extend(answer);
                    "the broker does not tell the committed offset of every partition".to_owned()
                }
                Err(error) => error.message,
            };
            if unanswered.iter().any(|p| !committed.contains_key(p)) {
                tries += 1;
                tracing::warn!(%error, tries, "the committed offsets are not known yet; asking on");
                if !self.producer.pause(tries) {
                    return Err(SessionFailure::Broken(error));
                }
            }
        }
    }

    pub(super) fn passed(&mut self, slice: &UnitSlice, next: i64) {
        self.positions
            .insert(slice.partition.clone(), (slice.epoch, next));
    }
}
