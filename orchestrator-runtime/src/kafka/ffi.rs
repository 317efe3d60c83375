//! The one place where librdkafka is called past rdkafka: what the safe crate does not offer, wrapped so that the
//! rest of this crate needs no `unsafe`. Called by the session's poll thread and by the producer; it decides nothing.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

/// Waits until nothing that was sent is outstanding, ending `linger.ms`; unlike rdkafka's own flush it returns as
/// soon as that is so. Delivery reports must be served by another thread meanwhile.
pub(crate) fn flush<C: ClientContext>(
    client: &Client<C>,
    timeout: Duration,
) -> Result<(), RDKafkaErrorCode> {
    // SAFETY: the pointer is valid as long as `client`; rd_kafka_flush may be called from any thread.
    match unsafe { sys::rd_kafka_flush(client.native_ptr(), millis(timeout)) } {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        error => Err(error.into()),
    }
}

/// Hands the log lines that wait in a client's main queue to its context, and throws away the errors that wait there:
/// for a client that nobody polls.
pub(crate) fn serve_logs<C: ClientContext>(client: &Client<C>) {
    // SAFETY: the client's pointer is valid; the reference to its queue is given back before it can go away.
    unsafe {
        let queue = sys::rd_kafka_queue_get_main(client.native_ptr());
        while let Some(event) = NonNull::new(sys::rd_kafka_queue_poll(queue, 0)) {
            let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
            // It refuses any event that is no log line.
            if sys::rd_kafka_event_log(event.as_ptr(), &mut facility, &mut line, &mut level) == 0 {
                let text = |text| CStr::from_ptr(text).to_string_lossy();
                let level = match level {
                    ..=2 => RDKafkaLogLevel::Critical,
                    3 => RDKafkaLogLevel::Error,
                    4 => RDKafkaLogLevel::Warning,
                    5 | 6 => RDKafkaLogLevel::Info,
                    7.. => RDKafkaLogLevel::Debug,
                };
                let (facility, line) = (text(facility), text(line));
                client.context().log(level, facility.trim(), line.trim());
            }
            sys::rd_kafka_event_destroy(event.as_ptr());
        }
        sys::rd_kafka_queue_destroy(queue);
    }
}

/// The low and the high watermark of a partition as of the last fetch answer: asks nobody.
pub(crate) fn cached_watermarks<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: i32,
) -> Option<(i64, i64)> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: all pointers are valid for the call, which keeps none of them.
    let result = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            client.native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (result == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some((low, high))
}

/// The consumer's group metadata, if it is a member of its group: metadata without generation and member id would be
/// accepted by the broker unfenced.
pub(crate) fn group_metadata<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
) -> Option<ConsumerGroupMetadata> {
    // rdkafka does not show what is in its metadata, so a second copy is looked at, before and after.
    for _ in 0..3 {
        let before = membership(consumer.client())?;
        let metadata = consumer.group_metadata()?;
        if membership(consumer.client())? == before {
            return Some(metadata);
        }
    }
    None
}

/// Whether the consumer is a member of its group.
pub(crate) fn is_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    member_id(consumer).is_some()
}

/// The consumer's member id, if it is a member of its group.
pub(crate) fn member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<String> {
    let (_, member) = membership(consumer.client())?;
    Some(member.to_string_lossy().into_owned())
}

/// The member id of whoever has a name (`group.instance.id`) in a group, as the broker says; none if nobody has.
pub(crate) fn member_of_name<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    name: &str,
    patience: Duration,
) -> Result<Option<String>, String> {
    let group = CString::new(group).map_err(|error| error.to_string())?;
    // SAFETY: the client's pointer is valid. Options, queue and event are ours and destroyed below; what is read of the
    // event is copied before. Should the answer come later, librdkafka keeps the queue for it by itself.
    unsafe {
        let rk = client.native_ptr();
        let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let options = sys::rd_kafka_AdminOptions_new(rk, kind);
        let mut refused: [c_char; 128] = [0; 128];
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options,
            millis(patience),
            refused.as_mut_ptr(),
            refused.len(),
        );
        let queue = sys::rd_kafka_queue_new(rk);
        let mut groups = [group.as_ptr()];
        sys::rd_kafka_DescribeConsumerGroups(rk, groups.as_mut_ptr(), 1, options, queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        let event = sys::rd_kafka_queue_poll(queue, millis(patience));
        let found = match NonNull::new(event) {
            None => Err("no answer in time".to_owned()),
            Some(event) => {
                let found = described_member(event.as_ptr(), name);
                sys::rd_kafka_event_destroy(event.as_ptr());
                found
            }
        };
        sys::rd_kafka_queue_destroy(queue);
        found
    }
}

/// # Safety
/// The event is valid.
unsafe fn described_member(
    event: *mut sys::rd_kafka_event_t,
    name: &str,
) -> Result<Option<String>, String> {
    // SAFETY: the event is the caller's promise; all that is taken from it belongs to it, and texts end with a zero.
    unsafe {
        let text = |text: *const c_char| {
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event);
        let mut count = 0;
        let groups = match result.is_null() {
            true => ptr::null_mut(),
            false => sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count),
        };
        if groups.is_null() || count == 0 {
            let error = text(sys::rd_kafka_event_error_string(event));
            return Err(error.unwrap_or_else(|| "an empty answer".to_owned()));
        }
        let group = *groups;
        let error = sys::rd_kafka_ConsumerGroupDescription_error(group);
        match sys::rd_kafka_error_code(error) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND => return Ok(None),
            _ => return Err(text(sys::rd_kafka_error_string(error)).unwrap_or_default()),
        }
        let members = 0..sys::rd_kafka_ConsumerGroupDescription_member_count(group);
        let named = members
            .map(|index| sys::rd_kafka_ConsumerGroupDescription_member(group, index))
            .find(|member| {
                let member = sys::rd_kafka_MemberDescription_group_instance_id(*member);
                text(member).is_some_and(|member| member == name)
            });
        Ok(named.and_then(|member| text(sys::rd_kafka_MemberDescription_consumer_id(member))))
    }
}

/// Generation and member id, if both are set. No group has generation 0: in KIP-848 that is a member that has left.
fn membership<C: ClientContext>(client: &Client<C>) -> Option<(i32, CString)> {
    // SAFETY: the client's pointer is valid; the metadata is ours until it is destroyed below.
    let metadata = unsafe { sys::rd_kafka_consumer_group_metadata(client.native_ptr()) };
    if metadata.is_null() {
        return None;
    }
    // SAFETY: not null; the member id lives in the metadata and is copied before that is destroyed.
    let (generation, member) = unsafe {
        let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata);
        let member = sys::rd_kafka_consumer_group_metadata_member_id(metadata);
        let member = (!member.is_null()).then(|| CStr::from_ptr(member).to_owned());
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        (generation, member.unwrap_or_default())
    };
    (generation > 0 && !member.is_empty()).then_some((generation, member))
}

/// Waits until librdkafka has done what it was asked to do with partitions so far: an assignment only asks its main
/// thread to stop and start them. That thread does one thing after the other, so an answer from it means that it has.
pub(crate) fn await_main_thread<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    // The answer itself is of no interest.
    membership(consumer.client());
}

/// How many events wait for [`BaseConsumer::poll`].
pub(crate) fn waiting_events<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> usize {
    // SAFETY: the client's pointer is valid; the reference to its queue is given back before it can go away.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        if queue.is_null() {
            return 0;
        }
        let length = sys::rd_kafka_queue_length(queue);
        sys::rd_kafka_queue_destroy(queue);
        length
    }
}

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

fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}
