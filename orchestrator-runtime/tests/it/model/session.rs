//! The model session: it loses and gains partitions at random, and its records are gathered at random.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orchestrator_runtime::core::ports::{
    Epoch, Intake, Session, SessionEvent, SessionFailure, Slice,
};
use orchestrator_runtime::core::{Record, SourcePartition};
use tokio_util::sync::CancellationToken;

use super::ports::{Group, Mailbox, Shared, lock};

struct Reading {
    epoch: Epoch,
    position: i64,
    paused: bool,
    told_end: bool,
}

pub(crate) struct ModelSession {
    broker: Shared,
    group: Group,
    mailbox: Mailbox,
    done: CancellationToken,
    reading: BTreeMap<SourcePartition, Reading>,
    lost: BTreeSet<SourcePartition>,
}

impl ModelSession {
    pub(crate) fn new(
        broker: Shared,
        group: Group,
        mailbox: Mailbox,
        done: CancellationToken,
    ) -> Self {
        Self {
            broker,
            group,
            mailbox,
            done,
            reading: BTreeMap::new(),
            lost: BTreeSet::new(),
        }
    }

    /// Everything the broker says is ours and we do not read is assigned.
    fn assign(&mut self, events: &mut Vec<SessionEvent>) {
        let mut broker = lock(&self.broker);
        let new: Vec<_> = broker
            .ours
            .iter()
            .filter(|p| !self.reading.contains_key(*p))
            .cloned()
            .collect();
        if new.is_empty() {
            return;
        }
        self.group.refresh(Some(broker.generation));
        for partition in new {
            // Stable offsets: an open transaction's are waited for.
            if broker
                .open
                .as_ref()
                .is_some_and(|t| t.offsets.contains_key(&partition))
            {
                continue;
            }
            if self.lost.contains(&partition) {
                if broker.random.u8(0..4) != 0 {
                    continue;
                }
                self.lost.remove(&partition);
                let partition = partition.clone();
                events.push(SessionEvent::Revoked { partition });
            }
            let position = broker.committed[&partition];
            let epoch = self.group.next_epoch();
            if broker.strikes(40, "the offset is lost") {
                self.lost.insert(partition.clone());
                events.push(SessionEvent::OffsetLost {
                    partition,
                    epoch,
                    committed: position,
                    low: position,
                    high: position,
                });
                continue;
            }
            self.group.own(partition.clone(), epoch, position);
            self.reading.insert(
                partition.clone(),
                Reading {
                    epoch,
                    position,
                    paused: false,
                    told_end: false,
                },
            );
            let mark = broker.marks.get(&partition).copied();
            events.push(SessionEvent::Assigned {
                partition,
                epoch,
                position,
                remember: broker.random.bool() && mark.is_none(),
                mark,
            });
        }
    }

    fn rebalance(&mut self, events: &mut Vec<SessionEvent>) {
        let mut broker = lock(&self.broker);
        if broker.strikes(20, "partitions revoked") {
            let ours: Vec<_> = broker.ours.iter().cloned().collect();
            let gone: Vec<_> = ours.into_iter().filter(|_| broker.random.bool()).collect();
            // In the callback: fresh metadata, then wait for the transaction (none runs while we are polled).
            self.group.refresh(Some(broker.generation));
            self.group.revoke(&gone, Duration::ZERO);
            broker.take_away(&gone);
            self.group.refresh(Some(broker.generation));
            for partition in gone {
                self.reading.remove(&partition);
                self.lost.remove(&partition);
                events.push(SessionEvent::Revoked { partition });
            }
        }
        if broker.strikes(200, "the session fails") {
            let failure = SessionFailure::Broken("the session fails".to_owned());
            events.push(SessionEvent::Failed(failure));
        }
        if broker.strikes(300, "drained in the middle") {
            self.done.cancel();
        }
        if broker.strikes(30, "generation moves without a callback") {
            broker.generation += 1;
        }
        broker.peer_works();
        if broker.ours.len() < broker.source.len()
            && (broker.faults_left == 0 || broker.random.u8(0..4) == 0)
        {
            let all: BTreeSet<_> = broker.source.keys().cloned().collect();
            broker.generation += 1;
            broker.ours = all;
        }
    }

    /// As with Kafka, once each time that there is nothing more.
    fn tell_ends(&mut self, events: &mut Vec<SessionEvent>) {
        let broker = lock(&self.broker);
        for (partition, reading) in &mut self.reading {
            let last = broker.source[partition].last().copied();
            let at_end = last.is_none_or(|last| last < reading.position);
            if at_end && !reading.paused && !reading.told_end {
                reading.told_end = true;
                let partition = partition.clone();
                events.push(SessionEvent::CaughtUp { partition });
            }
        }
    }
}

impl Session for ModelSession {
    async fn next(&mut self, want_records: bool) -> Intake {
        loop {
            let mut intake = Intake::default();
            while let Some(event) = self.mailbox.lock().unwrap().pop_front() {
                if let SessionEvent::Revoked { partition } = &event {
                    self.reading.remove(partition);
                    self.lost.remove(partition);
                }
                intake.events.push(event);
            }
            self.rebalance(&mut intake.events);
            self.assign(&mut intake.events);
            self.tell_ends(&mut intake.events);
            if want_records {
                let mut broker = lock(&self.broker);
                for (partition, reading) in &mut self.reading {
                    if reading.paused || broker.random.u8(0..3) == 0 {
                        continue;
                    }
                    let count = broker.random.usize(1..6);
                    let offsets: Vec<i64> = broker.source[partition]
                        .iter()
                        .copied()
                        .filter(|o| *o >= reading.position)
                        .take(count)
                        .collect();
                    let Some(last) = offsets.last() else { continue };
                    let next = last + 1;
                    let from = std::mem::replace(&mut reading.position, next);
                    let record = |offset: &i64| {
                        Record::builder(partition.topic.clone(), partition.partition, *offset)
                            .value("v")
                            .build()
                    };
                    intake.slices.push(Slice {
                        partition: partition.clone(),
                        epoch: reading.epoch,
                        from,
                        next,
                        records: offsets.iter().map(record).collect(),
                    });
                }
                if broker.all_passed() {
                    self.done.cancel();
                }
            }
            if !intake.events.is_empty() || !intake.slices.is_empty() {
                return intake;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    fn pause(&mut self, partition: &SourcePartition, epoch: Epoch) {
        if let Some(reading) = self.reading.get_mut(partition).filter(|r| r.epoch == epoch) {
            reading.paused = true;
        }
    }

    fn resume(&mut self, partition: &SourcePartition, epoch: Epoch, at: i64) {
        if let Some(reading) = self.reading.get_mut(partition).filter(|r| r.epoch == epoch) {
            reading.paused = false;
            reading.position = at;
            reading.told_end = false;
        }
    }

    async fn close(self) {}
}
