//! Producing by topic handle. rdkafka's `send` looks the topic up by its name for each record, which allocates and takes
//! the client's one write lock; a handle is looked up once.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use rdkafka::bindings as sys;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::util::IntoOpaque;
use sys::rd_kafka_vtype_t as vtype;

use super::end_poll;

/// librdkafka chooses the partition.
const PARTITION_UNASSIGNED: i32 = -1;

/// A producer that keeps the handles of the topics it has sent to.
pub(crate) struct TopicProducer<C: ProducerContext + 'static> {
    topics: BTreeMap<Box<str>, NonNull<sys::rd_kafka_topic_t>>,
    producer: ThreadedProducer<C>,
}

// SAFETY: topic handles may be used from any thread, like the client they belong to.
unsafe impl<C: ProducerContext + 'static> Send for TopicProducer<C> {}

/// A record to be sent. Everything is copied.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// In milliseconds since 1970; now, if there is none.
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) headers: Option<Headers>,
}

impl<C: ProducerContext + 'static> TopicProducer<C> {
    pub(crate) fn new(producer: ThreadedProducer<C>) -> Self {
        Self {
            topics: BTreeMap::new(),
            producer,
        }
    }

    /// Puts a record into the producer's queue; never waits. If that fails the same may be tried again.
    pub(crate) fn send(
        &mut self,
        outgoing: &mut Outgoing<'_>,
        opaque: C::DeliveryOpaque,
    ) -> Result<(), KafkaError> {
        let topic = self.topic(outgoing.topic)?;
        let (key, key_len) = parts(outgoing.key);
        let (value, value_len) = parts(outgoing.value);
        let headers = outgoing.headers.as_ref();
        let opaque = opaque.into_ptr();
        // SAFETY: each tag has the arguments that it asks for, and END is the last. Key and value are copied. If it
        // succeeds the headers and the opaque value are librdkafka's, so the headers are forgotten here; if it fails both
        // are still ours.
        unsafe {
            let error = sys::rd_kafka_producev(
                self.producer.client().native_ptr(),
                vtype::RD_KAFKA_VTYPE_RKT,
                topic.as_ptr(),
                vtype::RD_KAFKA_VTYPE_PARTITION,
                PARTITION_UNASSIGNED,
                vtype::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                vtype::RD_KAFKA_VTYPE_VALUE,
                value,
                value_len,
                vtype::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                vtype::RD_KAFKA_VTYPE_OPAQUE,
                opaque,
                vtype::RD_KAFKA_VTYPE_TIMESTAMP,
                outgoing.timestamp_ms.unwrap_or(0),
                vtype::RD_KAFKA_VTYPE_HEADERS,
                headers.map_or(ptr::null_mut(), |headers| headers.0.as_ptr()),
                vtype::RD_KAFKA_VTYPE_END,
            );
            if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                std::mem::forget(outgoing.headers.take());
                Ok(())
            } else {
                drop(C::DeliveryOpaque::from_ptr(opaque));
                Err(KafkaError::MessageProduction(error.into()))
            }
        }
    }

    fn topic(&mut self, name: &str) -> Result<NonNull<sys::rd_kafka_topic_t>, KafkaError> {
        if let Some(topic) = self.topics.get(name) {
            return Ok(*topic);
        }
        let c_name = CString::new(name)?;
        // SAFETY: the client's pointer and the name are valid; the handle is given back by `drop`.
        let topic = unsafe {
            let client = self.producer.client().native_ptr();
            sys::rd_kafka_topic_new(client, c_name.as_ptr(), ptr::null_mut())
        };
        // A name that is too long.
        let topic = NonNull::new(topic).ok_or(KafkaError::MessageProduction(
            RDKafkaErrorCode::InvalidArgument,
        ))?;
        self.topics.insert(name.into(), topic);
        Ok(topic)
    }
}

impl<C: ProducerContext + 'static> Deref for TopicProducer<C> {
    type Target = ThreadedProducer<C>;

    fn deref(&self) -> &ThreadedProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for TopicProducer<C> {
    fn drop(&mut self) {
        for topic in self.topics.values() {
            // SAFETY: it is ours, of a client that is still there, and not used again.
            unsafe { sys::rd_kafka_topic_destroy(topic.as_ptr()) };
        }
        // What comes next is to wait for the thread that polls.
        end_poll(self.producer.client());
    }
}

impl<C: ProducerContext + 'static> fmt::Debug for TopicProducer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicProducer")
            .field("topics", &self.topics.len())
            .finish_non_exhaustive()
    }
}

/// Headers to be sent with a record.
#[derive(Debug)]
pub(crate) struct Headers(NonNull<sys::rd_kafka_headers_t>);

// SAFETY: it is memory that one at a time owns.
unsafe impl Send for Headers {}

impl Headers {
    /// These headers, in order; none if there are none.
    pub(crate) fn of<'h>(
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Option<Self> {
        let mut headers = headers.peekable();
        headers.peek()?;
        // SAFETY: the list is ours; names and values are copied. Nothing but a list that is part of a message is refused.
        unsafe {
            let (at_least, _) = headers.size_hint();
            let list = Self(NonNull::new(sys::rd_kafka_headers_new(at_least))?);
            for (name, value) in headers {
                let (value, value_len) = parts(value);
                sys::rd_kafka_header_add(
                    list.0.as_ptr(),
                    name.as_ptr().cast(),
                    name.len() as isize,
                    value,
                    value_len as isize,
                );
            }
            Some(list)
        }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: it is ours, and not used again.
        unsafe { sys::rd_kafka_headers_destroy(self.0.as_ptr()) };
    }
}

/// Null for `None`, which is not the same as an empty one.
fn parts(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| {
        (bytes.as_ptr().cast_mut().cast(), bytes.len())
    })
}
