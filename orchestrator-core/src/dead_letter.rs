//! Dead letters: what is written to the dead-letter queue of a record that failed for good. Called by the worker
//! for every record it dead-letters; pure. It must never make an output larger than it is told, since a dead
//! letter that is refused would hold its partition for ever.

use bytes::Bytes;

use crate::failure::FailureRecord;
use crate::output::{HEADER_OVERHEAD, Output, RECORD_OVERHEAD, TRACEPARENT};
use crate::record::{DEDUP_KEY_HEADER, Record, Topic};
use crate::text;

/// Kafka Streams' names (KIP-1034), all values as strings.
pub const EXCEPTION: &str = "__streams.errors.exception";
/// The error's text.
pub const MESSAGE: &str = "__streams.errors.message";
/// The error's type, text and causes.
pub const STACKTRACE: &str = "__streams.errors.stacktrace";
/// The topic of the record that failed.
pub const TOPIC: &str = "__streams.errors.topic";
/// Its partition.
pub const PARTITION: &str = "__streams.errors.partition";
/// Its offset.
pub const OFFSET: &str = "__streams.errors.offset";
/// The consumer group that could not process it.
pub const CONSUMER_GROUP: &str = "orchestrator.consumer_group";
/// How many tries were made, those of earlier trips included.
pub const ATTEMPTS: &str = "orchestrator.attempts";
/// `permanent`, `transient` or `infrastructure`.
pub const FAILURE_CLASS: &str = "orchestrator.failure_class";
/// The step in which it failed.
pub const STAGE: &str = "orchestrator.stage";
/// When it failed first, in milliseconds since 1970.
pub const FIRST_FAILED_AT: &str = "orchestrator.first_failed_at";
/// When it failed last, in milliseconds since 1970.
pub const LAST_FAILED_AT: &str = "orchestrator.last_failed_at";
/// The record's dedup key.
pub const DEDUP_KEY: &str = "orchestrator.dedup_key";
/// The size in bytes of a value that was too large to go along.
pub const VALUE_OMITTED: &str = "orchestrator.value-omitted";
/// The size in bytes of a key that was too large to go along.
pub const KEY_OMITTED: &str = "orchestrator.key-omitted";
/// How many of the record's headers were too large to go along.
pub const HEADERS_OMITTED: &str = "orchestrator.headers-omitted";

/// The least limit a dead letter is sure to keep to. About 1 KiB is needed for all that is said of a failure.
pub const MIN_BYTES: usize = RECORD_OVERHEAD + TRACEPARENT.len() + HEADER_OVERHEAD;

/// The longest texts, however large the limit is.
const MESSAGE_MAX_BYTES: usize = 8 * 1024;
const STACKTRACE_MAX_BYTES: usize = 32 * 1024;
const NAME_MAX_BYTES: usize = 1024;
/// So much of the message goes before key and value.
const SHORT_MESSAGE_BYTES: usize = 256;
/// The decimal digits of any number given.
const NUMBER_BYTES: usize = 20;

/// What `ORCH_DLQ_TOPIC` has in place of the source topic.
const TOPIC_PLACEHOLDER: &str = "{topic}";

/// `ORCH_DLQ_TOPIC`: the topic of dead letters, a template in which `{topic}` stands for the source topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DlqTopic(String);

impl DlqTopic {
    /// This template. The names it makes are not checked here.
    pub fn new(template: impl Into<String>) -> Self {
        Self(template.into())
    }

    /// The topic that dead letters of records of `source` go to.
    pub fn for_source(&self, source: &str) -> Topic {
        Topic::from(self.0.replace(TOPIC_PLACEHOLDER, source))
    }
}

/// The dead letter of a record: key, value, timestamp and all headers of the record, and why it failed.
///
/// It is never larger than `max_bytes` (as [`Output::size_given`] measures it), if that is at least
/// [`MIN_BYTES`]: first the texts are cut, then headers of the record are left out, then its value
/// ([`VALUE_OMITTED`] gives its size), then its key ([`KEY_OMITTED`]), at last all but the coordinates. What an
/// earlier trip through a dead-letter queue wrote is replaced, and its attempts are added up.
pub fn dead_letter(
    failed: &FailureRecord,
    dlq_topic: &Topic,
    consumer_group: &str,
    max_bytes: usize,
) -> Output {
    let record = &failed.record;
    let failure = &failed.failure;
    let mut room = Room::new(max_bytes, record);
    room.header(TOPIC, text::cut(record.topic(), NAME_MAX_BYTES));
    room.header(PARTITION, record.partition().partition.to_string());
    room.header(OFFSET, record.offset().to_string());
    // Whatever is left out must be said, so the words for it are set aside before the rest.
    let for_value = room.set_aside(cost(VALUE_OMITTED, NUMBER_BYTES));
    let for_key = room.set_aside(cost(KEY_OMITTED, NUMBER_BYTES));
    let for_headers = room.set_aside(cost(HEADERS_OMITTED, NUMBER_BYTES));

    room.header(ATTEMPTS, attempts(failed).to_string());
    room.header(FAILURE_CLASS, failure.class.as_str());
    room.header(STAGE, failure.stage.as_str());
    room.header(FIRST_FAILED_AT, failure.first_failed_at_ms.to_string());
    room.header(LAST_FAILED_AT, failure.last_failed_at_ms.to_string());
    room.header(
        DEDUP_KEY,
        text::cut(record.dedup_key().as_str(), NAME_MAX_BYTES),
    );
    room.header(CONSUMER_GROUP, text::cut(consumer_group, NAME_MAX_BYTES));
    room.header(EXCEPTION, text::clean(&failure.kind, NAME_MAX_BYTES));
    let message = text::clean(&failure.message, MESSAGE_MAX_BYTES);
    let message_at = room.text(MESSAGE, &message, SHORT_MESSAGE_BYTES);

    let key_bytes = record.key().map_or(0, <[u8]>::len);
    let key_fits = room.take(key_bytes);
    let omitted = (!key_fits).then_some(key_bytes);
    room.say(KEY_OMITTED, omitted, for_key);
    let value = record.value_bytes();
    let value_bytes = value.as_ref().map_or(0, Bytes::len);
    let mut output = match value {
        Some(value) if room.take(value_bytes) => {
            room.say(VALUE_OMITTED, None, for_value);
            Output::new(value)
        }
        Some(_) => {
            room.say(VALUE_OMITTED, Some(value_bytes), for_value);
            Output::tombstone()
        }
        None => {
            room.say(VALUE_OMITTED, earlier_omission(record), for_value);
            Output::tombstone()
        }
    };
    output = room.source_headers(record, output, for_headers);
    room.lengthen(message_at, &message);
    let trace = text::trace(failure, STACKTRACE_MAX_BYTES);
    room.text(STACKTRACE, &trace, STACKTRACE_MAX_BYTES);

    output = output.with_topic(dlq_topic.clone());
    if let Some(timestamp_ms) = record.timestamp_ms() {
        output = output.with_timestamp_ms(timestamp_ms);
    }
    if !key_fits {
        output = output.without_key();
    }
    for (name, value) in room.headers {
        output = output.with_header(name, value);
    }
    output
}

/// The tries made, those of earlier trips included.
fn attempts(failed: &FailureRecord) -> u64 {
    let earlier = number(&failed.record, ATTEMPTS).unwrap_or(0);
    earlier.saturating_add(u64::from(failed.failure.attempts))
}

/// The value's size if an earlier trip left it out: it is still not here.
fn earlier_omission(record: &Record) -> Option<usize> {
    number(record, VALUE_OMITTED).and_then(|size| usize::try_from(size).ok())
}

fn number(record: &Record, header: &str) -> Option<u64> {
    std::str::from_utf8(record.header(header)?)
        .ok()?
        .parse()
        .ok()
}

/// Whether a header was written by an earlier trip. A dedup key that came along with the record stays: it is who
/// the record is, not what happened to it.
fn of_earlier_trip(name: &str) -> bool {
    name.starts_with("__streams.errors.")
        || (name.starts_with("orchestrator.") && name != DEDUP_KEY_HEADER)
}

/// What is left of the limit, and the headers that found room. Things ask for room in order of their worth.
struct Room {
    left: usize,
    headers: Vec<(&'static str, Bytes)>,
    /// Set aside for a null `traceparent`: an output inherits it, so one that does not fit must be overridden.
    for_trace: usize,
}

impl Room {
    fn new(max_bytes: usize, record: &Record) -> Self {
        let mut room = Self {
            left: max_bytes.saturating_sub(RECORD_OVERHEAD),
            headers: Vec::with_capacity(16),
            for_trace: 0,
        };
        if record.header(TRACEPARENT).is_some() {
            room.for_trace = room.set_aside(cost(TRACEPARENT, 0));
        }
        room
    }

    fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.left;
        if fits {
            self.left -= bytes;
        }
        fits
    }

    /// Takes room for later, and tells how much.
    fn set_aside(&mut self, bytes: usize) -> usize {
        if self.take(bytes) { bytes } else { 0 }
    }

    /// Gives back what was set aside, and writes what it was for if there is something to say.
    fn say(&mut self, name: &'static str, number: Option<usize>, set_aside: usize) {
        self.left += set_aside;
        if let Some(number) = number {
            self.header(name, number.to_string());
        }
    }

    /// Writes a header if there is room for it.
    fn header(&mut self, name: &'static str, value: impl Into<Bytes>) {
        let value = value.into();
        if self.take(cost(name, value.len())) {
            self.headers.push((name, value));
        }
    }

    /// Writes as much of a text as there is room for, and says where.
    fn text(&mut self, name: &'static str, text: &str, max_bytes: usize) -> Option<usize> {
        let room = self.left.checked_sub(cost(name, 0))?;
        self.header(name, text::cut(text, room.min(max_bytes)));
        Some(self.headers.len() - 1)
    }

    /// Writes more of a text that was cut.
    fn lengthen(&mut self, at: Option<usize>, text: &str) {
        let Some((_, value)) = at.and_then(|at| self.headers.get_mut(at)) else {
            return;
        };
        let longer = text::cut(text, value.len() + self.left);
        if longer.len() > value.len() {
            self.left -= longer.len() - value.len();
            *value = longer.into();
        }
    }

    /// Appends the record's own headers to `output`, in order, as many as there is room for.
    fn source_headers(&mut self, record: &Record, mut output: Output, set_aside: usize) -> Output {
        let mut left_out = 0;
        let mut trace_kept = false;
        for (name, value) in record.headers().filter(|(name, _)| !of_earlier_trip(name)) {
            if !self.take(cost(name, value.map_or(0, <[u8]>::len))) {
                left_out += 1;
                continue;
            }
            trace_kept |= name == TRACEPARENT;
            output = match value {
                Some(value) => output.with_header(name.to_owned(), Bytes::copy_from_slice(value)),
                None => output.with_null_header(name.to_owned()),
            };
        }
        if trace_kept {
            self.left += self.for_trace;
        } else if self.for_trace > 0 {
            output = output.with_null_header(TRACEPARENT);
        }
        self.say(
            HEADERS_OMITTED,
            (left_out > 0).then_some(left_out),
            set_aside,
        );
        output
    }
}

fn cost(name: &str, value_bytes: usize) -> usize {
    name.len() + value_bytes + HEADER_OVERHEAD
}

#[cfg(test)]
#[path = "dead_letter_tests.rs"]
mod tests;
