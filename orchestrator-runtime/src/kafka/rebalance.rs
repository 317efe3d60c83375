//! What happens when partitions come and go: the consumer's context, whose callbacks librdkafka makes on the poll
//! thread. Tells membership and gather, in an order that never lets a record or a commit of a lost partition out.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::SessionFailure;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::asker::{Ask, Attempt};
use super::ffi::{self, RecordQueue};
use super::gather::Gather;
use super::membership::Membership;
use super::offsets::{Start, StartRules, listed, look_up};
use super::status::SessionStatus;
use crate::kill_points::{KillPoint, kill_point};
use crate::planted::{Bug, planted};
use crate::telemetry::kafka_log;

/// How long the assign callback waits for start offsets; those that have not come by then come later.
const ASSIGN_PATIENCE: Duration = Duration::from_secs(2);

/// The membership of a worker that reads from Kafka.
pub type GroupMembership = Membership<ConsumerGroupMetadata>;

/// Partitions that are ours but whose start is not known yet, by attempt.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    attempts: Attempt,
    partitions: BTreeMap<SourcePartition, Wait>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    attempt: Attempt,
    refused: bool,
    /// Not asked yet: a transaction that began before may still move its committed offset.
    in_use: bool,
}

/// Context of a session's consumer. Clones share everything.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) gather: Arc<Gather>,
    pub(crate) membership: Arc<GroupMembership>,
    pub(crate) status: Arc<SessionStatus>,
    pub(crate) rules: StartRules,
    pub(crate) revoke_patience: Duration,
    pub(crate) pending: Arc<Mutex<Pending>>,
    pub(crate) asks: Sender<Ask>,
    /// Where fetched records go; taken out before the consumer ends.
    pub(crate) records: Arc<Mutex<Option<Arc<RecordQueue>>>>,
}

impl Context {
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[SourcePartition],
    ) -> KafkaResult<()> {
        let starts = look_up(consumer, partitions, self.rules, false, ASSIGN_PATIENCE)
            .unwrap_or_else(|error| {
                if !partitions.is_empty() {
                    tracing::info!(%error, "start offsets are not known yet; asking on");
                }
                Vec::new()
            });
        let starts: BTreeMap<_, _> = starts.into_iter().collect();
        let mut assigned = Vec::with_capacity(partitions.len());
        let mut paused = Vec::new();
        for partition in partitions {
            let offset = match starts.get(partition) {
                Some(Start::At { position, .. }) => Offset::Offset(*position),
                // Never read from there: it is paused before, and put elsewhere before it is resumed.
                _ => {
                    paused.push(partition);
                    Offset::End
                }
            };
            assigned.push((partition, offset));
        }
        for partition in partitions {
            match starts.get(partition) {
                Some(start) => self.started(partition, *start),
                None => self.ask(partition, false, false),
            }
        }
        self.take_records(consumer, partitions);
        consumer.resume(&listed(partitions, Offset::Invalid)?)?;
        consumer.pause(&listed(paused, Offset::Invalid)?)?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in assigned {
            list.add_partition_offset(&partition.topic, partition.partition, offset)?;
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&list)?,
            _ => consumer.assign(&list)?,
        }
        self.take_records(consumer, partitions);
        Ok(())
    }

    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[SourcePartition],
        lost: bool,
    ) -> KafkaResult<()> {
        // First, so that nothing of them is handed out while a transaction that uses them is waited for.
        self.forget(partitions);
        if lost {
            tracing::warn!(
                partitions = partitions.len(),
                "the group has given our partitions away"
            );
        } else if !self.membership.revoke(partitions, self.revoke_patience) {
            tracing::warn!(
                "a transaction outlasted the revocation of its partitions; the broker will fence it"
            );
        }
        kill_point(KillPoint::Revoking);
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => {
                consumer.incremental_unassign(&listed(partitions, Offset::Invalid)?)
            }
            _ => consumer.unassign(),
        }
    }

    /// A start was found: the partition is owned from now on, or known to be lost.
    pub(crate) fn started(&self, partition: &SourcePartition, start: Start) {
        self.lock_pending().partitions.remove(partition);
        let epoch = self.membership.next_epoch();
        match start {
            Start::At {
                position,
                remember,
                mark,
            } => {
                tracing::debug!(%partition, position, remember, "partition assigned");
                self.membership.own(partition.clone(), epoch, position);
                self.gather
                    .change(|g| g.assigned(partition.clone(), epoch, position, remember, mark));
            }
            Start::Lost {
                committed,
                low,
                high,
            } => {
                tracing::error!(
                    %partition, committed, low, high,
                    "the committed offset is gone from the topic: the partition is held \
                     (ORCH_ON_OFFSET_LOST=EARLIEST goes on at the first record there is)"
                );
                self.gather
                    .change(|g| g.lost(partition.clone(), epoch, committed, (low, high)));
            }
        }
    }

    /// The position of a partition is lost: what was read of it is void, and its start is looked for anew once no
    /// transaction can move its committed offset any more.
    pub(crate) fn position_lost(&self, partition: &SourcePartition) {
        self.gather
            .change(|g| g.revoked(std::slice::from_ref(partition)));
        let ended = self.give_up(partition);
        self.ask(partition, true, !ended);
    }

    /// Goes on with those that waited for a transaction.
    pub(crate) fn ask_what_waited(&self) {
        let in_use = |wait: &&mut Wait| wait.in_use;
        for (partition, wait) in &mut self.lock_pending().partitions {
            if let Some(wait) = Some(wait).filter(in_use)
                && self.give_up(partition)
            {
                wait.in_use = false;
                self.send_ask(partition, *wait);
            }
        }
    }

    /// Whether the answer to that attempt is still wanted.
    pub(crate) fn is_wanted(
        pending: &Mutex<Pending>,
        partition: &SourcePartition,
        attempt: Attempt,
    ) -> bool {
        let pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = pending.partitions.get(partition);
        wait.is_some_and(|wait| wait.attempt == attempt)
    }

    /// The session cannot go on: nothing of it may be committed any more.
    pub(crate) fn fail(&self, failure: SessionFailure) {
        let owned: Vec<_> = self.membership.owned().into_keys().collect();
        self.membership.lose(&owned);
        self.gather.change(|g| g.failed(failure));
    }

    /// Takes fresh group metadata.
    ///
    /// A member that was expelled while it waits to join again learns it from the answer to that (UNKNOWN_MEMBER_ID).
    /// librdkafka (2.12) then joins as a new member, and goes on to own what it owned: it makes no callback, and where a
    /// name spares it the second round trip of KIP-394 it never will. Others own those partitions by then, and fresh
    /// metadata would vouch for ours. So a new member id voids all that was owned as another, and the session ends: the
    /// group has to give the partitions away once more, when whoever has them now has finished with them.
    pub(crate) fn refresh(&self, consumer: &BaseConsumer<Self>) {
        let (metadata, member) = ffi::group_metadata(consumer).unzip();
        if member.is_some_and(|member| self.membership.known_as(&member)) && self.owns_any() {
            let error = "the group has expelled this member and taken it back as another, and nobody has said that its \
                         partitions were lost";
            if planted(Bug::ExpulsionIgnored) {
                tracing::error!("{error}");
            } else {
                self.fail(SessionFailure::Broken(error.to_owned()));
            }
        }
        self.membership.refresh(metadata);
    }

    /// Whether any partition is ours, or will be when its start is known.
    fn owns_any(&self) -> bool {
        !self.membership.owned().is_empty() || !self.lock_pending().partitions.is_empty()
    }

    /// Says where fetched records go.
    pub(crate) fn put_records_queue(&self, queue: Option<Arc<RecordQueue>>) {
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = queue;
    }

    /// Sends the records of partitions to our own queue. To be called again after an assignment: librdkafka takes them
    /// back when it stops a partition, a while after it was asked to, and sends them nowhere when it starts it again.
    pub(crate) fn take_records(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[SourcePartition],
    ) {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = &*records {
            ffi::await_main_thread(consumer);
            for partition in partitions {
                queue.take(consumer, &partition.topic, partition.partition);
            }
        }
    }

    /// Whether no transaction uses it (any more).
    fn give_up(&self, partition: &SourcePartition) -> bool {
        let one = std::slice::from_ref(partition);
        self.membership.revoke(one, Duration::ZERO)
    }

    fn forget(&self, partitions: &[SourcePartition]) {
        let mut pending = self.lock_pending();
        for partition in partitions {
            pending.partitions.remove(partition);
        }
        drop(pending);
        self.gather.change(|g| g.revoked(partitions));
    }

    fn ask(&self, partition: &SourcePartition, refused: bool, in_use: bool) {
        let mut pending = self.lock_pending();
        pending.attempts += 1;
        let wait = Wait {
            attempt: pending.attempts,
            refused,
            in_use,
        };
        pending.partitions.insert(partition.clone(), wait);
        if !in_use {
            self.send_ask(partition, wait);
        }
    }

    fn send_ask(&self, partition: &SourcePartition, wait: Wait) {
        let ask = Ask::Start {
            partition: partition.clone(),
            attempt: wait.attempt,
            refused: wait.refused,
        };
        if self.asks.send(ask).is_err() {
            tracing::error!("the session's helper thread has ended");
        }
    }

    fn lock_pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let elements = list.elements();
        let partitions: Vec<_> = elements
            .iter()
            .map(|element| SourcePartition::new(element.topic(), element.partition()))
            .collect();
        let assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let lost = !assign && consumer.assignment_lost();
        self.status.rebalanced(assign, lost);
        if lost {
            // Before anything fresh is taken that could vouch for them.
            self.membership.lose(&partitions);
            let pending = &mut self.lock_pending().partitions;
            pending.retain(|partition, _| !partitions.contains(partition));
        }
        self.refresh(consumer);
        let result = if assign {
            self.status.set_reachable(true);
            self.assign(consumer, &partitions)
        } else {
            self.revoke(consumer, &partitions, lost)
        };
        self.refresh(consumer);
        if let Err(error) = result {
            let error = format!("a rebalance could not be followed: {error}");
            self.fail(SessionFailure::Broken(error));
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let KafkaError::Global(code) = error else {
            return;
        };
        if code == RDKafkaErrorCode::AllBrokersDown {
            self.status.set_reachable(false);
        }
        // Connections that fail are in librdkafka's own log lines.
        if !matches!(
            code,
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::Authentication
        ) {
            self.status.log(code, reason);
        }
        if self.asks.send(Ask::Probe).is_err() {
            tracing::error!("the session's helper thread has ended");
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("membership", &self.membership)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
