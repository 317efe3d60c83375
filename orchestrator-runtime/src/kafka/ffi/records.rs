//! Fetched records: a queue of their own, and one record at a time out of it, read where librdkafka keeps it.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

/// A queue of our own that the fetched records of chosen partitions go to, so that rebalances and errors never wait
/// behind records: they stay in the consumer's queue.
pub(crate) struct RecordQueue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    /// Called by librdkafka's threads whenever the queue was empty and is no more.
    bell: NonNull<Bell>,
}

type Bell = Box<dyn Fn() + Send + Sync>;

// SAFETY: librdkafka's queues may be used from any thread; the bell is Send and Sync.
unsafe impl Send for RecordQueue {}
// SAFETY: as above.
unsafe impl Sync for RecordQueue {}

impl RecordQueue {
    /// A new queue. It must be dropped before the consumer is.
    pub(crate) fn new<C: ConsumerContext>(
        consumer: &BaseConsumer<C>,
        bell: impl Fn() + Send + Sync + 'static,
    ) -> Option<Self> {
        unsafe extern "C" fn ring(_: *mut sys::rd_kafka_t, bell: *mut c_void) {
            // SAFETY: it is the pointer given below, to a bell that lives until the callback is disabled.
            let bell = unsafe { &*bell.cast::<Bell>() };
            bell();
        }
        // SAFETY: the client's pointer is valid. The bell is leaked here, and `drop` disables the callback (under the
        // lock that callbacks are made under) before it frees the bell.
        unsafe {
            let queue = NonNull::new(sys::rd_kafka_queue_new(consumer.client().native_ptr()))?;
            let bell: NonNull<Bell> = NonNull::from(Box::leak(Box::new(Box::new(bell) as Bell)));
            sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(ring), bell.as_ptr().cast());
            Some(Self { queue, bell })
        }
    }

    /// Sends the records of a partition here instead of to the consumer's queue.
    pub(crate) fn take<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        topic: &str,
        partition: i32,
    ) {
        let Ok(topic) = CString::new(topic) else {
            return;
        };
        // SAFETY: both queues are valid; the reference to the partition's is given back.
        unsafe {
            let from = sys::rd_kafka_queue_get_partition(
                consumer.client().native_ptr(),
                topic.as_ptr(),
                partition,
            );
            if !from.is_null() {
                sys::rd_kafka_queue_forward(from, self.queue.as_ptr());
                sys::rd_kafka_queue_destroy(from);
            }
        }
    }
}

impl Drop for RecordQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours; after the first call no callback is made any more, so the bell may go, which was
        // leaked by `new`.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
            drop(Box::from_raw(self.bell.as_ptr()));
        }
    }
}

impl fmt::Debug for RecordQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordQueue").finish_non_exhaustive()
    }
}

/// The one record that was taken out of a [`RecordQueue`] and not yet passed on.
///
/// One at a time: `rd_kafka_consume_batch_queue` moves a partition's position one *beyond* its end when the end (or
/// any other error with an offset) is in the batch, and the next rebalance then skips the record that comes there.
/// `rd_kafka_consume_callback_queue` takes all out of the queue while it calls back, so that librdkafka takes it for empty
/// and fetches far beyond the prefetch's limits (340 MB instead of 135 on a backlog, for 2 % less CPU).
pub(crate) struct Hand {
    /// Keeps the queue alive, and with it what messages belong to.
    queue: Arc<RecordQueue>,
    message: Option<NonNull<sys::rd_kafka_message_t>>,
}

// SAFETY: messages may be looked at and destroyed on any thread, by one at a time, which ownership sees to.
unsafe impl Send for Hand {}

impl Hand {
    /// An empty hand.
    pub(crate) fn new(queue: Arc<RecordQueue>) -> Self {
        Self {
            queue,
            message: None,
        }
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.message.is_none()
    }

    /// What is in it; if nothing is, the next of the queue, if there is one now. Never waits.
    pub(crate) fn first(&mut self) -> Option<Message<'_>> {
        if self.message.is_none() {
            // SAFETY: the queue is valid; what is given back is null or ours from then on.
            let message = unsafe { sys::rd_kafka_consume_queue(self.queue.queue.as_ptr(), 0) };
            self.message = NonNull::new(message);
        }
        // SAFETY: the message is alive until `pass`, which needs a mutable borrow.
        self.message
            .map(|message| Message(unsafe { message.as_ref() }))
    }

    /// Lets go of what is in it.
    pub(crate) fn pass(&mut self) {
        if let Some(message) = self.message.take() {
            // SAFETY: it is ours and valid, and not looked at again.
            unsafe { sys::rd_kafka_message_destroy(message.as_ptr()) };
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.pass();
    }
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hand")
            .field("is_empty", &self.is_empty())
            .finish_non_exhaustive()
    }
}

/// A fetched record, or an error of one partition (its end, above all).
#[derive(Clone, Copy)]
pub(crate) struct Message<'a>(&'a sys::rd_kafka_message_t);

impl<'a> Message<'a> {
    /// What is wrong, if this is no record.
    pub(crate) fn error(&self) -> Option<RDKafkaErrorCode> {
        match self.0.err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => None,
            error => Some(error.into()),
        }
    }

    /// What is said of the error.
    pub(crate) fn error_text(&self) -> String {
        String::from_utf8_lossy(self.value().unwrap_or_default()).into_owned()
    }

    /// Something that is equal for messages of the same partition, as long as that is assigned.
    pub(crate) fn partition_key(&self) -> (usize, i32) {
        (self.0.rkt as usize, self.0.partition)
    }

    /// The topic's name.
    pub(crate) fn topic(&self) -> &'a str {
        if self.0.rkt.is_null() {
            return "";
        }
        // SAFETY: the message holds a reference to its topic, which holds its name.
        let name = unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(self.0.rkt)) };
        name.to_str().unwrap_or_default()
    }

    /// The partition.
    pub(crate) fn partition(&self) -> i32 {
        self.0.partition
    }

    /// The offset; of the end of a partition, the offset that the next record will have.
    pub(crate) fn offset(&self) -> i64 {
        self.0.offset
    }

    /// The timestamp, if there is one.
    pub(crate) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: both pointers are valid for the call.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(self.0, &mut kind) };
        (kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE)
            .then_some(timestamp)
    }

    /// The key.
    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka keeps pointer and length of the key until the message is destroyed.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// The value.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka keeps pointer and length of the payload until the message is destroyed.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    /// The headers, in order. A name that is not UTF-8 (which Kafka forbids) reads U+FFFD.
    pub(crate) fn headers(&self) -> Headers<'a> {
        let mut headers = ptr::null_mut();
        // SAFETY: both pointers are valid; what is given back belongs to the message.
        let result = unsafe { sys::rd_kafka_message_headers(self.0, &mut headers) };
        let found = result == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
        Headers {
            headers: NonNull::new(headers).filter(|_| found),
            index: 0,
            message: PhantomData,
        }
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.topic(), self.partition(), self.offset())
    }
}

/// The headers of a message.
#[derive(Debug)]
pub(crate) struct Headers<'a> {
    headers: Option<NonNull<sys::rd_kafka_headers_t>>,
    index: usize,
    message: PhantomData<Message<'a>>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let headers = self.headers?.as_ptr();
        let (mut name, mut value, mut size): (*const c_char, *const c_void, usize) =
            (ptr::null(), ptr::null(), 0);
        // SAFETY: headers, names and values belong to the message, which is borrowed for 'a.
        unsafe {
            let result =
                sys::rd_kafka_header_get_all(headers, self.index, &mut name, &mut value, &mut size);
            if result != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            self.index += 1;
            let name = CStr::from_ptr(name).to_str().unwrap_or("\u{fffd}");
            Some((name, bytes(value, size)))
        }
    }
}

/// # Safety
/// `start` is null or points to `len` bytes that stay for `'a`.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { slice::from_raw_parts(start.cast(), len) })
}
