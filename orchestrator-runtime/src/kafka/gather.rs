//! What was read and not yet taken by the worker: one slot a partition, each an unbroken chain of positions. Written
//! by the poll thread, emptied by [`Session::next`](orchestrator_core::ports::Session::next) under one short lock.
//! It never calls Kafka and never waits.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use orchestrator_core::ports::{Epoch, Intake, SessionEvent, SessionFailure, Slice};
use orchestrator_core::quarantine::Mark;
use orchestrator_core::{RecordBuffer, SourcePartition};
use tokio::sync::Notify;

/// The limits of what is gathered. One record more than the bytes may be in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// What the poll thread and the worker share.
#[derive(Debug)]
pub(crate) struct Gather {
    state: Mutex<Gathered>,
    /// Rung for the worker when there is something where there was nothing.
    pub(crate) arrived: Notify,
    poller: OnceLock<Thread>,
}

impl Gather {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(Gathered {
                limits,
                slots: Vec::new(),
                events: Vec::new(),
                records: 0,
                bytes: 0,
                turn: 0,
                failed: false,
            }),
            arrived: Notify::new(),
            poller: OnceLock::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Gathered> {
        // The state is consistent after every statement, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which thread [`wake_poller`](Self::wake_poller) wakes: the calling one.
    pub(crate) fn i_am_the_poller(&self) {
        self.poller.get_or_init(std::thread::current);
    }

    /// Wakes the poll thread, or keeps it from falling asleep the next time. Cheap, from any thread.
    pub(crate) fn wake_poller(&self) {
        if let Some(poller) = self.poller.get() {
            poller.unpark();
        }
    }

    /// Changes the state and rings for the worker if there is an event for it.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Gathered) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let events = !state.events.is_empty();
        drop(state);
        if events {
            self.arrived.notify_one();
        }
        result
    }

    /// What there is for the worker, if there is anything that it wants.
    pub(crate) fn take(&self, want_records: bool) -> Option<Intake> {
        let mut state = self.lock();
        let was_full = state.room() == 0;
        let (events, taken) = state.take(want_records)?;
        drop(state);
        if was_full {
            self.wake_poller();
        }
        Some(Intake {
            events,
            slices: taken.into_iter().map(Taken::freeze).collect(),
        })
    }
}

/// The state. All that changes what may still be appended moves `turn` on, and only the poll thread does that.
#[derive(Debug)]
pub(crate) struct Gathered {
    limits: Limits,
    slots: Vec<Slot>,
    events: Vec<SessionEvent>,
    records: usize,
    bytes: usize,
    turn: u64,
    failed: bool,
}

#[derive(Debug)]
struct Slot {
    partition: SourcePartition,
    epoch: Epoch,
    reading: Reading,
    /// What was taken from librdkafka before this turn is not ours to append.
    since: u64,
    /// Where what is in `buffer` begins: where the slice before it ended.
    from: i64,
    /// The position after what was gathered last.
    next: i64,
    /// How far was read, offsets without records included.
    read_to: i64,
    /// The end was reached, and the worker is to be told once it has all before it.
    tell_end: bool,
    buffer: RecordBuffer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Flowing,
    Paused,
    /// Resumed by the worker; the poll thread has yet to put the consumer there.
    Seeking,
    /// Its offset is lost.
    Lost,
}

/// What a resume asks of the poll thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Seek and go on.
    Seek,
    /// Look whether its offset is still lost.
    LookAgain,
}

struct Taken {
    partition: SourcePartition,
    epoch: Epoch,
    from: i64,
    next: i64,
    buffer: RecordBuffer,
}

impl Taken {
    fn freeze(self) -> Slice {
        Slice {
            records: self.buffer.freeze(&self.partition),
            partition: self.partition,
            epoch: self.epoch,
            from: self.from,
            next: self.next,
        }
    }
}

impl Gathered {
    /// How many more records may be gathered.
    pub(crate) fn room(&self) -> usize {
        if self.bytes >= self.limits.bytes || self.failed {
            return 0;
        }
        self.limits.records.saturating_sub(self.records)
    }

    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0 && self.events.is_empty()
    }

    /// The slot of a partition, valid for this turn.
    pub(crate) fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        self.slots
            .iter()
            .position(|s| s.partition.partition == partition && &*s.partition.topic == topic)
    }

    /// Whether what was taken from librdkafka in that turn may be appended to the slot.
    pub(crate) fn accepts(&self, slot: usize, turn: u64) -> bool {
        let slot = &self.slots[slot];
        slot.reading == Reading::Flowing && slot.since <= turn
    }

    /// Appends a record to a slot that accepts it.
    pub(crate) fn append<'a>(
        &mut self,
        slot: usize,
        offset: i64,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) {
        let slot = &mut self.slots[slot];
        if offset < slot.next {
            return;
        }
        let before = slot.buffer.bytes();
        slot.buffer.push(offset, timestamp_ms, key, value, headers);
        slot.next = offset + 1;
        slot.read_to = offset + 1;
        slot.tell_end = false;
        self.records += 1;
        self.bytes += slot.buffer.bytes() - before;
    }

    /// The end of a partition was reached; the next record will have `offset` or a later one.
    pub(crate) fn reached_end(&mut self, slot: usize, offset: i64) {
        let slot = &mut self.slots[slot];
        slot.read_to = slot.read_to.max(offset);
        if slot.buffer.is_empty() {
            self.events.push(SessionEvent::CaughtUp {
                partition: slot.partition.clone(),
            });
        } else {
            slot.tell_end = true;
        }
    }

    /// A partition came and is read from `position`.
    pub(crate) fn assigned(
        &mut self,
        partition: SourcePartition,
        epoch: Epoch,
        position: i64,
        remember: bool,
        mark: Option<Mark>,
    ) {
        self.insert(&partition, epoch, position, Reading::Flowing);
        self.events.push(SessionEvent::Assigned {
            partition,
            epoch,
            position,
            remember,
            mark,
        });
    }

    /// A partition is ours, but its offset is lost.
    pub(crate) fn lost(
        &mut self,
        partition: SourcePartition,
        epoch: Epoch,
        committed: i64,
        (low, high): (i64, i64),
    ) {
        self.insert(&partition, epoch, committed, Reading::Lost);
        self.events.push(SessionEvent::OffsetLost {
            partition,
            epoch,
            committed,
            low,
            high,
        });
    }

    /// Partitions went: nothing of them comes out any more. Those that the worker never heard of are not told.
    pub(crate) fn revoked(&mut self, partitions: &[SourcePartition]) {
        for partition in partitions {
            if self.remove(partition) {
                let partition = partition.clone();
                self.events.push(SessionEvent::Revoked { partition });
            }
        }
    }

    /// The session cannot go on; nothing is read any more.
    pub(crate) fn failed(&mut self, failure: SessionFailure) {
        if !self.failed {
            self.failed = true;
            self.events.push(SessionEvent::Failed(failure));
        }
    }

    /// No longer appends to a partition; whether there is anything to pause.
    pub(crate) fn pause(&mut self, partition: &SourcePartition, epoch: Epoch) -> bool {
        match self.slot(partition, epoch) {
            Some(slot) if slot.reading != Reading::Lost => {
                slot.reading = Reading::Paused;
                true
            }
            _ => false,
        }
    }

    /// Drops what was gathered of a partition and begins its chain anew at `at`; what is left to do for that.
    pub(crate) fn resume(
        &mut self,
        partition: &SourcePartition,
        epoch: Epoch,
        at: i64,
    ) -> Option<Resume> {
        let slot = self.slot(partition, epoch)?;
        if slot.reading == Reading::Lost {
            return Some(Resume::LookAgain);
        }
        slot.reading = Reading::Seeking;
        slot.from = at;
        slot.next = at;
        slot.read_to = at;
        slot.tell_end = false;
        let dropped = std::mem::take(&mut slot.buffer);
        self.records -= dropped.len();
        self.bytes -= dropped.bytes();
        Some(Resume::Seek)
    }

    /// Whether the consumer is still to be put at `at`.
    pub(crate) fn is_seeking(
        &mut self,
        partition: &SourcePartition,
        epoch: Epoch,
        at: i64,
    ) -> bool {
        self.slot(partition, epoch)
            .is_some_and(|slot| slot.reading == Reading::Seeking && slot.next == at)
    }

    /// Whether a partition is still to be paused.
    pub(crate) fn is_paused(&mut self, partition: &SourcePartition, epoch: Epoch) -> bool {
        self.slot(partition, epoch)
            .is_some_and(|slot| slot.reading == Reading::Paused)
    }

    /// The consumer was put at `at`: what is fetched from now on is appended, unless the worker paused again.
    pub(crate) fn sought(&mut self, partition: &SourcePartition, epoch: Epoch, at: i64) -> bool {
        self.turn += 1;
        let turn = self.turn;
        let still = self.is_seeking(partition, epoch, at);
        if let Some(slot) = self.slot(partition, epoch).filter(|_| still) {
            slot.reading = Reading::Flowing;
            slot.since = turn;
        }
        still
    }

    /// The position after what the worker took, for each partition that is read.
    pub(crate) fn standings(&self) -> Vec<(SourcePartition, i64)> {
        let taken_to = |slot: &Slot| match slot.buffer.is_empty() {
            true => slot.read_to,
            false => slot.from,
        };
        let standing = |slot: &Slot| (slot.partition.clone(), taken_to(slot));
        self.slots.iter().map(standing).collect()
    }

    /// The positions that a consumer assigned anew must start from, for all that is not lost.
    pub(crate) fn positions(&self) -> Vec<(SourcePartition, i64)> {
        let flowing = self.slots.iter().filter(|s| s.reading != Reading::Lost);
        flowing.map(|s| (s.partition.clone(), s.next)).collect()
    }

    fn insert(
        &mut self,
        partition: &SourcePartition,
        epoch: Epoch,
        position: i64,
        reading: Reading,
    ) {
        self.remove(partition);
        self.turn += 1;
        self.slots.push(Slot {
            partition: partition.clone(),
            epoch,
            reading,
            since: self.turn,
            from: position,
            next: position,
            read_to: position,
            tell_end: false,
            buffer: RecordBuffer::default(),
        });
    }

    fn remove(&mut self, partition: &SourcePartition) -> bool {
        let Some(index) = self.slots.iter().position(|s| s.partition == *partition) else {
            return false;
        };
        self.turn += 1;
        let slot = self.slots.swap_remove(index);
        self.records -= slot.buffer.len();
        self.bytes -= slot.buffer.bytes();
        true
    }

    fn slot(&mut self, partition: &SourcePartition, epoch: Epoch) -> Option<&mut Slot> {
        let mut slots = self.slots.iter_mut();
        slots.find(|s| s.partition == *partition && s.epoch == epoch)
    }

    fn take(&mut self, want_records: bool) -> Option<(Vec<SessionEvent>, Vec<Taken>)> {
        let records = want_records && self.records > 0;
        if self.events.is_empty() && !records {
            return None;
        }
        let events = std::mem::take(&mut self.events);
        let mut taken = Vec::new();
        if records {
            for slot in &mut self.slots {
                if slot.buffer.is_empty() {
                    continue;
                }
                taken.push(Taken {
                    partition: slot.partition.clone(),
                    epoch: slot.epoch,
                    from: slot.from,
                    next: slot.next,
                    buffer: std::mem::take(&mut slot.buffer),
                });
                slot.from = slot.next;
                if std::mem::take(&mut slot.tell_end) {
                    // With the next call, as it applies after these records.
                    self.events.push(SessionEvent::CaughtUp {
                        partition: slot.partition.clone(),
                    });
                }
            }
            self.records = 0;
            self.bytes = 0;
        }
        Some((events, taken))
    }
}
