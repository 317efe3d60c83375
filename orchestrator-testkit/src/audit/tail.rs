//! A topic, read by a plain read_committed consumer from offsets to offsets. Used by audits; it judges nothing and
//! commits nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::{AuditError, Client, Offsets, Seen};
use crate::reader::Isolation;

const POLL: Duration = Duration::from_millis(100);

/// A topic that is read piece by piece.
pub struct Tail {
    topic: String,
    client: Client,
    consumer: BaseConsumer,
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tail").field(&self.topic).finish()
    }
}

impl Tail {
    /// Connects lazily.
    ///
    /// # Errors
    /// Where the client does not take its settings.
    pub fn new(client: &Client, topic: &str) -> Result<Self, AuditError> {
        Ok(Self {
            topic: topic.to_owned(),
            client: client.clone(),
            // rdkafka wants a group to poll at all; without subscribe and commit it stays unknown.
            consumer: client.consumer("orchestrator-audit", Isolation::Committed)?,
        })
    }

    /// Shows every record from `next` up to `to`, which must be no further than open transactions let one read, and
    /// moves `next` along. What is not in `next` is read from 0.
    ///
    /// # Errors
    /// If a record does not exist any more, or none comes within the client's patience; what was shown stays shown.
    pub fn read<E: From<AuditError>>(
        &self,
        next: &mut Offsets,
        to: &Offsets,
        mut show: impl FnMut(&Seen<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut open = self.assign(next, to)?;
        let mut moved = Instant::now();
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(record)) => {
                    let (partition, offset) = (record.partition(), record.offset());
                    let end = to.get(&partition).copied().unwrap_or(0);
                    if offset < end {
                        self.show(&record, &mut show)?;
                    }
                    next.insert(partition, end.min(offset + 1));
                    if offset + 1 >= end {
                        open.remove(&partition);
                    }
                    moved = Instant::now();
                }
                // Behind the last record there may be offsets without one.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if open.remove(&partition) {
                        next.insert(partition, to[&partition]);
                    }
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    let what = format_args!("read {}", self.topic);
                    return Err(self.client.in_vain(what, code).into());
                }
                other if moved.elapsed() > self.client.patience => {
                    let said = other.and_then(Result::err);
                    let said = said.map_or("nothing came".to_owned(), |error| error.to_string());
                    let what = format_args!("read {} to its end", self.topic);
                    return Err(self.client.in_vain(what, said).into());
                }
                Some(Err(_)) | None => {}
            }
            if self.client.is_stopped() {
                return Err(AuditError::Stopped.into());
            }
        }
        // What lies behind is not wanted yet.
        self.consumer
            .unassign()
            .map_err(|error| self.client.in_vain("end reading", error))?;
        Ok(())
    }

    /// Anew each time: the end of a partition is told once only.
    fn assign(&self, next: &Offsets, to: &Offsets) -> Result<BTreeSet<i32>, AuditError> {
        let failed = |error| {
            self.client
                .in_vain(format_args!("read {}", self.topic), error)
        };
        let mut list = TopicPartitionList::new();
        let mut open = BTreeSet::new();
        for (partition, end) in to {
            let from = next.get(partition).copied().unwrap_or(0);
            if from < *end {
                let from = Offset::Offset(from);
                list.add_partition_offset(&self.topic, *partition, from)
                    .map_err(failed)?;
                open.insert(*partition);
            }
        }
        if !open.is_empty() {
            self.consumer.assign(&list).map_err(failed)?;
        }
        Ok(open)
    }

    fn show<E>(
        &self,
        record: &BorrowedMessage<'_>,
        show: &mut impl FnMut(&Seen<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let headers: Vec<_> = record.headers().map_or_else(Vec::new, |headers| {
            let headers = headers.iter();
            headers.map(|header| (header.key, header.value)).collect()
        });
        show(&Seen {
            topic: &self.topic,
            partition: record.partition(),
            offset: record.offset(),
            key: record.key(),
            value: record.payload(),
            headers: &headers,
        })
    }
}
