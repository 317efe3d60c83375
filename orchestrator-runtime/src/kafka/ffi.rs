//! The one place where librdkafka is called past rdkafka: what the safe crate does not offer, wrapped so that the
//! rest of this crate needs no `unsafe`. Called by the session's poll thread and by the producer; it decides nothing.
#![allow(unsafe_code)]

mod group;
mod produce;
mod records;

use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

pub(crate) use group::{
    await_main_thread, group_metadata, is_member, member_id, member_of_name, own_id,
};
pub(crate) use produce::{Headers, Outgoing, TopicProducer};
pub(crate) use records::{Hand, Message, RecordQueue};

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

/// Ends a poll of a client's main queue that is under way on another thread: one that began before the wall clock was
/// set back lasts for as long as that (`docs/adr/0007-wall-clock.md`).
pub(crate) fn end_poll<C: ClientContext>(client: &Client<C>) {
    // SAFETY: the client's pointer is valid; the reference to its queue is given back before it can go away.
    unsafe {
        let queue = sys::rd_kafka_queue_get_main(client.native_ptr());
        sys::rd_kafka_queue_yield(queue);
        sys::rd_kafka_queue_destroy(queue);
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

fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}
