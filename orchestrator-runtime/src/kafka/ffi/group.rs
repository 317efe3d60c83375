//! Membership in the consumer group: what librdkafka knows of its own, and what the broker says of others.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::millis;

/// The consumer's group metadata and its member id, if it is a member of its group: metadata without generation and member
/// id would be accepted by the broker unfenced.
pub(crate) fn group_metadata<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
) -> Option<(ConsumerGroupMetadata, String)> {
    // rdkafka does not show what is in its metadata, so a second copy is looked at, before and after.
    for _ in 0..3 {
        let before = membership(consumer.client())?;
        let metadata = consumer.group_metadata()?;
        if membership(consumer.client())? == before {
            let (_, member) = before;
            return Some((metadata, member.to_string_lossy().into_owned()));
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

/// The id under which the consumer is, was or asks to be a member. In KIP-848 it is the consumer's own for all its life.
pub(crate) fn own_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<String> {
    let (_, member) = known(consumer.client())?;
    (!member.is_empty()).then(|| member.to_string_lossy().into_owned())
}

/// Of whoever has a name (`group.instance.id`) in a group the member id, as the broker says that coordinates the group; none
/// if nobody has. Brokers are asked one after the other, this one first, which is that broker afterwards, or the one
/// to go on with.
///
/// librdkafka (2.12) would find that broker by itself. But when it has not done so in time, and finds it later, it aborts
/// the process (`eonce->refcnt > 0`, its issue #4605). A request that names its broker takes another way.
pub(crate) fn member_of_name<C: ClientContext>(
    client: &Client<C>,
    first: &AtomicI32,
    group: &str,
    name: &str,
    patience: Duration,
) -> Result<Option<String>, String> {
    let group = CString::new(group).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + patience;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut brokers = brokers(client, patience)?;
    let from = first.load(Ordering::Relaxed);
    let start = brokers.iter().position(|broker| *broker == from);
    brokers.rotate_left(start.unwrap_or(0));
    for (index, broker) in brokers.iter().enumerate() {
        let (next, text) = match ask_for_member(client, *broker, &group, name, left()) {
            Ok(found) => {
                first.store(*broker, Ordering::Relaxed);
                return Ok(found);
            }
            Err((RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR, _)) => continue,
            Err((RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT, text)) => (index + 1, text),
            Err((_, text)) => (index, text),
        };
        first.store(brokers[next % brokers.len()], Ordering::Relaxed);
        return Err(text);
    }
    Err("no broker coordinates the group".to_owned())
}

/// The ids of all brokers.
fn brokers<C: ClientContext>(client: &Client<C>, patience: Duration) -> Result<Vec<i32>, String> {
    let mut metadata = ptr::null();
    // SAFETY: the client's pointer is valid; what is read of the metadata is copied before it is destroyed.
    unsafe {
        let rk = client.native_ptr();
        let no_topic = ptr::null_mut();
        let error = sys::rd_kafka_metadata(rk, 0, no_topic, &mut metadata, millis(patience));
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(RDKafkaErrorCode::from(error).to_string());
        }
        let count = usize::try_from((*metadata).broker_cnt).unwrap_or(0);
        let found = (0..count).map(|index| (*(*metadata).brokers.add(index)).id);
        let mut found: Vec<i32> = found.collect();
        sys::rd_kafka_metadata_destroy(metadata);
        found.sort_unstable();
        Ok(found)
    }
}

/// What one broker says of a name in a group that it coordinates.
fn ask_for_member<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    group: &CString,
    name: &str,
    patience: Duration,
) -> Result<Option<String>, (RDKafkaRespErr, String)> {
    // SAFETY: the client's pointer is valid. Options, queue and event are ours and destroyed below; what is read of the
    // event is copied before. Should the answer come later, librdkafka keeps the queue for it by itself.
    unsafe {
        let rk = client.native_ptr();
        let kind = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let options = sys::rd_kafka_AdminOptions_new(rk, kind);
        let mut refused: [c_char; 128] = [0; 128];
        let (text, room) = (refused.as_mut_ptr(), refused.len());
        sys::rd_kafka_AdminOptions_set_request_timeout(options, millis(patience), text, room);
        sys::rd_kafka_AdminOptions_set_broker(options, broker, text, room);
        let queue = sys::rd_kafka_queue_new(rk);
        let mut groups = [group.as_ptr()];
        sys::rd_kafka_DescribeConsumerGroups(rk, groups.as_mut_ptr(), 1, options, queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        let event = sys::rd_kafka_queue_poll(queue, millis(patience));
        let found = match NonNull::new(event) {
            None => Err((
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT,
                "no answer in time".to_owned(),
            )),
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
) -> Result<Option<String>, (RDKafkaRespErr, String)> {
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
            let error = error.unwrap_or_else(|| "an empty answer".to_owned());
            return Err((sys::rd_kafka_event_error(event), error));
        }
        let group = *groups;
        let error = sys::rd_kafka_ConsumerGroupDescription_error(group);
        match sys::rd_kafka_error_code(error) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND => return Ok(None),
            code => {
                // Brokers do not always say more than the code.
                let error = text(sys::rd_kafka_error_string(error)).unwrap_or_default();
                return Err((code, format!("{error} {}", RDKafkaErrorCode::from(code))));
            }
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
    known(client).filter(|(generation, member)| *generation > 0 && !member.is_empty())
}

/// What librdkafka has as generation and member id.
fn known<C: ClientContext>(client: &Client<C>) -> Option<(i32, CString)> {
    // SAFETY: the client's pointer is valid; the metadata is ours until it is destroyed below.
    let metadata = unsafe { sys::rd_kafka_consumer_group_metadata(client.native_ptr()) };
    if metadata.is_null() {
        return None;
    }
    // SAFETY: not null; the member id lives in the metadata and is copied before that is destroyed.
    unsafe {
        let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata);
        let member = sys::rd_kafka_consumer_group_metadata_member_id(metadata);
        let member = (!member.is_null()).then(|| CStr::from_ptr(member).to_owned());
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        Some((generation, member.unwrap_or_default()))
    }
}

/// Waits until librdkafka has done what it was asked to do with partitions so far: an assignment only asks its main
/// thread to stop and start them. That thread does one thing after the other, so an answer from it means that it has.
pub(crate) fn await_main_thread<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    // The answer itself is of no interest.
    membership(consumer.client());
}
