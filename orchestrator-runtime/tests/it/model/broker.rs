//! The model broker: source partitions, a consumer group with one peer, one transactional id, and what readers of
//! committed records see. It fakes nothing that matters to exactly-once: offsets and outputs of a transaction appear
//! together or not at all, generations and producer epochs fence.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_runtime::core::quarantine::Mark;
use orchestrator_runtime::core::{SourcePartition, SourcePosition};

/// An output: the source record it was made of, and which of its outputs it is (`-1`: its dead letter).
pub(crate) type Written = (SourcePartition, i64, i32);

#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) outputs: Vec<Written>,
    pub(crate) offsets: BTreeMap<SourcePartition, (i64, Option<Mark>)>,
}

pub(crate) struct Broker {
    pub(crate) random: fastrand::Rng,
    /// The offsets that exist, per partition.
    pub(crate) source: BTreeMap<SourcePartition, Vec<i64>>,
    pub(crate) committed: BTreeMap<SourcePartition, i64>,
    pub(crate) marks: BTreeMap<SourcePartition, Mark>,
    pub(crate) visible: Vec<Written>,
    pub(crate) generation: u32,
    pub(crate) ours: BTreeSet<SourcePartition>,
    pub(crate) producer_epoch: u32,
    pub(crate) open: Option<Transaction>,
    pub(crate) log: Vec<String>,
    /// How many faults may still happen: a run must come to its end.
    pub(crate) faults_left: u32,
    /// A record was refused: the next transaction of this producer fails, good as its records may be.
    pub(crate) out_of_order: bool,
    /// The offsets of so many units more cannot be committed; then how many slices each of them had.
    pub(crate) refuses_offsets: usize,
    pub(crate) slices_refused: Vec<usize>,
    /// No question about a topic is answered.
    pub(crate) silent: bool,
    /// Dead letters that the ledger was told of.
    pub(crate) recorded: BTreeSet<(SourcePartition, i64)>,
    /// Records that the ledger was told of before their transform.
    pub(crate) noted: BTreeSet<SourcePosition>,
    /// What the worker was seen to do wrong.
    pub(crate) wrong: Option<String>,
}

impl Broker {
    pub(crate) fn new(seed: u64, partitions: i32, records: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut source = BTreeMap::new();
        for n in 0..partitions {
            let mut offset = random.i64(0..5);
            let mut offsets = Vec::new();
            for _ in 0..records {
                offsets.push(offset);
                // Gaps: control records and compaction.
                offset += if random.u8(0..4) == 0 {
                    random.i64(2..5)
                } else {
                    1
                };
            }
            source.insert(SourcePartition::new("in", n), offsets);
        }
        let committed = source.keys().map(|p| (p.clone(), 0)).collect();
        Self {
            random,
            ours: source.keys().cloned().collect(),
            source,
            committed,
            marks: BTreeMap::new(),
            visible: Vec::new(),
            generation: 1,
            producer_epoch: 0,
            open: None,
            log: Vec::new(),
            faults_left: 40,
            out_of_order: false,
            refuses_offsets: 0,
            slices_refused: Vec::new(),
            silent: false,
            recorded: BTreeSet::new(),
            noted: BTreeSet::new(),
            wrong: None,
        }
    }

    pub(crate) fn end(&self, partition: &SourcePartition) -> i64 {
        self.source[partition].last().map_or(0, |last| last + 1)
    }

    pub(crate) fn all_passed(&self) -> bool {
        self.source.keys().all(|p| self.committed[p] >= self.end(p))
    }

    /// Whether a fault of `one_in` strikes now.
    pub(crate) fn strikes(&mut self, one_in: u32, what: &str) -> bool {
        if self.faults_left == 0 || self.random.u32(0..one_in) != 0 {
            return false;
        }
        self.faults_left -= 1;
        self.note(format!("fault: {what}"));
        true
    }

    pub(crate) fn note(&mut self, line: String) {
        self.log.push(line);
    }

    pub(crate) fn commit_open(&mut self) {
        if let Some(transaction) = self.open.take() {
            self.note(format!("commit {:?}", transaction.offsets));
            let unrecorded = transaction
                .outputs
                .iter()
                .find(|(partition, offset, index)| {
                    *index == -1 && !self.recorded.contains(&(partition.clone(), *offset))
                });
            if let Some(unrecorded) = unrecorded {
                self.wrong = Some(format!("passed before the ledger knew: {unrecorded:?}"));
            }
            self.visible.extend(transaction.outputs);
            for (partition, (next, mark)) in transaction.offsets {
                self.marks.remove(&partition);
                self.marks
                    .extend(mark.map(|mark| (partition.clone(), mark)));
                self.committed.insert(partition, next);
            }
        }
    }

    pub(crate) fn abort_open(&mut self) {
        if self.open.take().is_some() {
            self.note("abort".to_owned());
        }
    }

    /// Takes partitions away: they belong to the peer from now on.
    pub(crate) fn take_away(&mut self, partitions: &[SourcePartition]) {
        self.generation += 1;
        for partition in partitions {
            self.ours.remove(partition);
        }
        self.note(format!("taken away {partitions:?}"));
    }

    /// The peer handles some of what it owns, as exactly as we should. It waits for offsets that are pending.
    pub(crate) fn peer_works(&mut self) {
        let theirs: Vec<_> = self
            .source
            .keys()
            .filter(|p| !self.ours.contains(*p))
            .cloned()
            .collect();
        for partition in theirs {
            let pending = self
                .open
                .as_ref()
                .is_some_and(|t| t.offsets.contains_key(&partition));
            if pending {
                continue;
            }
            let count = self.random.usize(0..4);
            let from = self.committed[&partition];
            let todo: Vec<i64> = self.source[&partition]
                .iter()
                .copied()
                .filter(|o| *o >= from)
                .take(count)
                .collect();
            for offset in todo {
                self.visible.push((partition.clone(), offset, 0));
                self.committed.insert(partition.clone(), offset + 1);
                self.marks.remove(&partition);
            }
        }
    }

    /// What a run must satisfy whatever happened: every record below the committed offset has exactly its outputs, in
    /// order, and nothing beyond it has any.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        for (partition, offsets) in &self.source {
            let committed = self.committed[partition];
            let expected: Vec<i64> = offsets.iter().copied().filter(|o| *o < committed).collect();
            let seen: Vec<i64> = self
                .visible
                .iter()
                .filter(|(p, _, _)| p == partition)
                .map(|(_, o, _)| *o)
                .collect();
            if seen != expected {
                let at = seen.iter().zip(&expected).position(|(a, b)| a != b);
                return Err(format!(
                    "{partition}: committed {committed}, {} outputs for {} records, first difference at {at:?}",
                    seen.len(),
                    expected.len()
                ));
            }
        }
        Ok(())
    }
}
