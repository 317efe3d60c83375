//! What one producer instance tells of itself: deliveries that failed, and connections that were lost. Filled by
//! librdkafka's callbacks (on the instance's polling thread), read by the producer. It must never block: callbacks
//! hold up all deliveries.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use orchestrator_core::Topic;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Headers, Message};
use rdkafka::producer::ProducerContext;

use super::classify::{Blame, Flaw, blame};
use crate::telemetry::kafka_log;

/// What a record batch costs beside keys, values and headers: a record of this much less than a batch may be alone.
const BATCH_OVERHEAD: usize = 128;
/// The facilities under which librdkafka logs that a connection was lost, or that an answer did not come. Disconnects
/// come as log lines only, no error event tells them.
const LOST: [&str; 2] = ["FAIL", "REQTMOUT"];

/// A delivery that failed: the first of its slice, or the first that blames its output.
#[derive(Debug)]
pub(super) struct FailedDelivery {
    pub(super) code: Code,
    pub(super) topic: Topic,
    pub(super) blame: Blame,
}

/// The context of one producer instance.
#[derive(Debug)]
pub(super) struct Deliveries {
    batch_size: usize,
    state: Mutex<State>,
    armed: AtomicBool,
    disconnected: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    failed: BTreeMap<usize, FailedDelivery>,
    doubt: Option<Flaw>,
}

impl Deliveries {
    pub(super) fn new(batch_size: usize) -> Self {
        Self {
            batch_size,
            state: Mutex::default(),
            armed: AtomicBool::new(false),
            disconnected: AtomicBool::new(false),
        }
    }

    /// From now on a lost connection counts; before, some brokers may just not have been found.
    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::Release);
    }

    /// Whether a connection was lost since [`arm`](Self::arm). It stays so: librdkafka says the same only twice in
    /// 30 s.
    pub(super) fn disconnected(&self) -> bool {
        self.disconnected.load(Ordering::Acquire)
    }

    /// Forgets the failures of an earlier transaction: what an abort purged is no failure.
    pub(super) fn clear(&self) {
        self.lock().failed.clear();
    }

    /// Whether a delivery has failed, which dooms the transaction.
    pub(super) fn any_failed(&self) -> bool {
        !self.lock().failed.is_empty()
    }

    /// The failures so far, by slice.
    pub(super) fn take(&self) -> BTreeMap<usize, FailedDelivery> {
        std::mem::take(&mut self.lock().failed)
    }

    /// What was wrong with a refused batch, if it is not known which of its records is to blame.
    pub(super) fn doubt(&self) -> Option<Flaw> {
        self.lock().doubt
    }

    /// How large a batch may be.
    pub(super) fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn note(&self, slice: usize, code: Code, topic: &str, bytes: usize) {
        let mut state = self.lock();
        let blame = match blame(code) {
            // Only a record that fills a batch is certainly alone in it.
            Blame::Batch(flaw) if bytes + BATCH_OVERHEAD < self.batch_size => {
                state.doubt = Some(flaw);
                Blame::Circumstances
            }
            blame => blame,
        };
        let failed = || FailedDelivery {
            code,
            topic: Topic::new(topic),
            blame,
        };
        let known = state.failed.entry(slice).or_insert_with(failed);
        if !known.blame.blames_output() && blame.blames_output() {
            *known = failed();
        }
    }

    fn lost(&self) {
        if self.armed.load(Ordering::Acquire) {
            self.disconnected.store(true, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if LOST.contains(&facility) {
            self.lost();
        }
        kafka_log(level, facility, line);
    }

    /// Comes twice for each error, and beside a log line for most.
    fn error(&self, error: KafkaError, reason: &str) {
        self.lost();
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Deliveries {
    /// The slice that the record belongs to.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slice: usize) {
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            let headers = message.headers().into_iter().flat_map(Headers::iter);
            let bytes = message.payload_len()
                + message.key_len()
                + headers
                    .map(|h| h.key.len() + h.value.map_or(0, <[u8]>::len))
                    .sum::<usize>();
            self.note(slice, code, message.topic(), bytes);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_blames_its_output_is_the_one_that_counts() {
        let deliveries = Deliveries::new(1_000);
        deliveries.note(3, Code::PurgeQueue, "t", 10);
        deliveries.note(3, Code::UnknownTopic, "u", 10);
        deliveries.note(3, Code::PurgeQueue, "t", 10);
        deliveries.note(4, Code::PurgeQueue, "t", 10);
        let failed = deliveries.take();
        assert_eq!(failed[&3].code, Code::UnknownTopic);
        assert_eq!(&*failed[&3].topic, "u");
        assert_eq!(failed[&4].blame, Blame::Circumstances);
        assert!(deliveries.take().is_empty());
        assert_eq!(deliveries.doubt(), None);
    }

    #[test]
    fn only_a_record_that_is_alone_is_to_blame_for_its_batch() {
        for (code, flaw) in [
            (Code::MessageSizeTooLarge, Flaw::Size),
            (Code::InvalidRecord, Flaw::Record),
        ] {
            let deliveries = Deliveries::new(1_000);
            deliveries.note(0, code, "t", 990);
            assert_eq!(deliveries.take()[&0].blame, Blame::Batch(flaw));
            assert_eq!(deliveries.doubt(), None);
            deliveries.note(0, code, "t", 300);
            assert_eq!(deliveries.take()[&0].blame, Blame::Circumstances);
            assert_eq!(deliveries.doubt(), Some(flaw));

            let one_by_one = Deliveries::new(1);
            one_by_one.note(0, code, "t", 0);
            assert!(one_by_one.take()[&0].blame.blames_output());
        }
    }

    #[test]
    fn a_lost_connection_counts_once_the_producer_is_initialised() {
        let deliveries = Deliveries::new(1);
        let lose = || deliveries.log(RDKafkaLogLevel::Info, "FAIL", "Disconnected");
        lose();
        assert!(!deliveries.disconnected());
        deliveries.arm();
        deliveries.log(RDKafkaLogLevel::Info, "OTHER", "all is well");
        assert!(!deliveries.disconnected());
        lose();
        deliveries.clear();
        assert!(deliveries.disconnected());
    }
}
