//! What becomes of each slice of a unit: let through or stripped at the gate, refused, or as the broker says it stands
//! after an unknown outcome. Part of the transactor.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::{SessionFailure, SliceFate, Unit, UnitSlice};

use super::super::membership::Snapshot;
use super::{RefusedOutput, TransactionalProducer, Transactor, TransactorObserver};
use crate::planted::{Bug, planted};

impl<P: TransactionalProducer, O: TransactorObserver> Transactor<P, O> {
    /// The gate: lets a slice through only if its partition is ours in its epoch and it begins where the partition
    /// stands. What does not is stripped, and so is everything of that partition after it.
    pub(super) fn gate<'u>(
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

    pub(super) fn note_refused(
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

    /// Asks the broker what became of a unit whose outcome is unknown. The new producer's initialisation has ended
    /// the old transaction, so the answer is final; our memory is not asked.
    pub(super) fn settle(
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

    pub(super) fn passed(&mut self, slice: &UnitSlice, next: i64) {
        self.positions
            .insert(slice.partition.clone(), (slice.epoch, next));
    }
}
