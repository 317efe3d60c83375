//! Outputs: what a transformer makes of a record. Built by users, sized and sent by the runtime.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::record::{DEDUP_KEY_HEADER, Record, Topic};

/// The W3C trace context header, the one header that outputs inherit by themselves.
pub const TRACEPARENT: &str = "traceparent";

/// What the broker adds to a record's payloads, generously: used when sizes are checked before sending.
pub(crate) const RECORD_OVERHEAD: usize = 96;

/// What one header takes beside its name and value, generously.
pub(crate) const HEADER_OVERHEAD: usize = 10;

/// A header to be written: name and value, `None` for a null value.
pub type OutputHeader = (Cow<'static, str>, Option<Bytes>);

/// One record to be written. What is not set is inherited: the key and the timestamp of the record it was made
/// of, its `traceparent` header, and the topic of `ORCH_TARGET_TOPIC`.
#[derive(Clone, Default)]
pub struct Output {
    value: Option<Bytes>,
    /// Apart, because most outputs set none of it, and all are moved from thread to thread.
    own: Option<Box<Own>>,
}

/// What an output sets itself instead of inheriting it.
#[derive(Clone, Default)]
struct Own {
    topic: Option<Topic>,
    key: Key,
    headers: Vec<OutputHeader>,
    timestamp_ms: Option<i64>,
}

#[derive(Clone, Default)]
enum Key {
    #[default]
    Inherited,
    Null,
    Set(Bytes),
}

impl Output {
    /// An output with this value.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// An output without a value: it deletes its key in a compacted topic.
    pub fn tombstone() -> Self {
        Self::default()
    }

    /// Sets the topic, instead of `ORCH_TARGET_TOPIC`.
    #[must_use]
    pub fn with_topic(mut self, topic: impl Into<Topic>) -> Self {
        self.own().topic = Some(topic.into());
        self
    }

    /// Sets the key, instead of the record's.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.own().key = Key::Set(key.into());
        self
    }

    /// Writes a null key, instead of the record's.
    #[must_use]
    pub fn without_key(mut self) -> Self {
        self.own().key = Key::Null;
        self
    }

    /// Sets the timestamp in milliseconds since 1970, instead of the record's.
    #[must_use]
    pub fn with_timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.own().timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Appends a header.
    #[must_use]
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Bytes>,
    ) -> Self {
        let header = (name.into(), Some(value.into()));
        self.own().headers.push(header);
        self
    }

    /// Appends a header with a null value.
    #[must_use]
    pub fn with_null_header(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.own().headers.push((name.into(), None));
        self
    }

    /// Appends all headers of `record`.
    #[must_use]
    pub fn with_headers_of(mut self, record: &Record) -> Self {
        let mut headers = record.headers().peekable();
        if headers.peek().is_some() {
            let copies = headers.map(|(name, value)| {
                let value = value.map(Bytes::copy_from_slice);
                (Cow::Owned(name.to_owned()), value)
            });
            self.own().headers.extend(copies);
        }
        self
    }

    fn own(&mut self) -> &mut Own {
        self.own.get_or_insert_default()
    }

    /// The topic it names itself, if it does.
    pub fn topic(&self) -> Option<&Topic> {
        self.own.as_ref()?.topic.as_ref()
    }

    /// The value.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The headers set so far.
    pub fn headers(&self) -> &[OutputHeader] {
        self.own.as_ref().map_or(&[], |own| &own.headers)
    }

    /// The key to write, given the record it was made of.
    pub fn key_given<'a>(&'a self, record: &'a Record) -> Option<&'a [u8]> {
        match self.own.as_ref().map_or(&Key::Inherited, |own| &own.key) {
            Key::Inherited => record.key(),
            Key::Null => None,
            Key::Set(key) => Some(key),
        }
    }

    /// The timestamp to write, given the record it was made of.
    pub fn timestamp_given(&self, record: &Record) -> Option<i64> {
        let own = self.own.as_ref().and_then(|own| own.timestamp_ms);
        own.or_else(|| record.timestamp_ms())
    }

    /// The `traceparent` to add, given the record it was made of: the record's, unless one is set.
    pub fn traceparent_given<'a>(&self, record: &'a Record) -> Option<&'a [u8]> {
        let own = self.headers().iter().any(|(name, _)| name == TRACEPARENT);
        if own {
            return None;
        }
        record.header(TRACEPARENT)
    }

    /// An upper bound of its size on the wire before compression, given the record it was made of.
    pub fn size_given(&self, record: &Record) -> usize {
        let headers: usize = self
            .headers()
            .iter()
            .map(|(name, value)| {
                name.len() + value.as_ref().map_or(0, Bytes::len) + HEADER_OVERHEAD
            })
            .sum();
        RECORD_OVERHEAD
            + self.key_given(record).map_or(0, <[u8]>::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers
            + self
                .traceparent_given(record)
                .map_or(0, |value| TRACEPARENT.len() + value.len() + HEADER_OVERHEAD)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("topic", &self.topic())
            .field("value_bytes", &self.value.as_ref().map(Bytes::len))
            .field("headers", &self.headers().len())
            .finish_non_exhaustive()
    }
}

/// What a record becomes: none (it is filtered out), one or many outputs, in order.
#[derive(Clone, Debug, Default)]
pub struct Outputs(Repr);

/// One output is by far the commonest case and costs no allocation.
#[derive(Clone, Debug, Default)]
enum Repr {
    #[default]
    None,
    One(Output),
    Many(Vec<Output>),
}

impl Outputs {
    /// No output: the record is deliberately filtered out, and its offset is committed.
    pub fn none() -> Self {
        Self::default()
    }

    /// The outputs in order.
    pub fn as_slice(&self) -> &[Output] {
        match &self.0 {
            Repr::None => &[],
            Repr::One(output) => std::slice::from_ref(output),
            Repr::Many(outputs) => outputs,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether the record is filtered out.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// Sets the header [`DEDUP_KEY_HEADER`] of each output to the record's dedup key, `#` and its index, so that
    /// whoever reads them recognises a copy. One that was set before (taken over from the record, say) goes.
    pub fn set_dedup_keys(&mut self, record: &Record) {
        let outputs = match &mut self.0 {
            Repr::None => return,
            Repr::One(output) => std::slice::from_mut(output),
            Repr::Many(outputs) => outputs,
        };
        let key = record.dedup_key();
        for (index, output) in outputs.iter_mut().enumerate() {
            let headers = &mut output.own().headers;
            headers.retain(|(name, _)| *name != DEDUP_KEY_HEADER);
            let value = Bytes::from(format!("{key}#{index}"));
            headers.push((Cow::Borrowed(DEDUP_KEY_HEADER), Some(value)));
        }
    }

    /// Appends an output.
    pub fn push(&mut self, output: Output) {
        self.0 = match std::mem::take(&mut self.0) {
            Repr::None => Repr::One(output),
            Repr::One(first) => Repr::Many(vec![first, output]),
            Repr::Many(mut outputs) => {
                outputs.push(output);
                Repr::Many(outputs)
            }
        };
    }
}

impl From<Output> for Outputs {
    fn from(output: Output) -> Self {
        Self(Repr::One(output))
    }
}

impl From<Option<Output>> for Outputs {
    fn from(output: Option<Output>) -> Self {
        output.map_or_else(Self::none, Self::from)
    }
}

impl From<Vec<Output>> for Outputs {
    fn from(outputs: Vec<Output>) -> Self {
        Self(Repr::Many(outputs))
    }
}

impl FromIterator<Output> for Outputs {
    fn from_iter<I: IntoIterator<Item = Output>>(outputs: I) -> Self {
        Self::from(outputs.into_iter().collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_inherited() {
        let record = Record::builder("t", 0, 0)
            .key("k")
            .timestamp_ms(9)
            .header(TRACEPARENT, "00-a-b-01")
            .build();
        let output = Output::new("v");
        assert_eq!(output.key_given(&record), Some(&b"k"[..]));
        assert_eq!(output.timestamp_given(&record), Some(9));
        assert_eq!(output.traceparent_given(&record), Some(&b"00-a-b-01"[..]));
        let output = output
            .without_key()
            .with_timestamp_ms(1)
            .with_header(TRACEPARENT, "mine");
        assert_eq!(output.key_given(&record), None);
        assert_eq!(output.timestamp_given(&record), Some(1));
        assert_eq!(output.traceparent_given(&record), None);
    }

    #[test]
    fn dedup_keys_are_those_of_the_record_with_an_index() {
        let record = Record::builder("t", 1, 7)
            .header(DEDUP_KEY_HEADER, "t-0-3")
            .build();
        let first = Output::new("v").with_headers_of(&record);
        let mut outputs = Outputs::from(vec![first, Output::tombstone()]);
        outputs.set_dedup_keys(&record);
        for (output, key) in outputs.as_slice().iter().zip(["t-0-3#0", "t-0-3#1"]) {
            let expected = (DEDUP_KEY_HEADER.into(), Some(key.into()));
            assert_eq!(output.headers(), [expected]);
        }
    }

    #[test]
    fn outputs_grow_from_none_to_many() {
        let mut outputs = Outputs::none();
        assert!(outputs.is_empty());
        for n in 1..=3 {
            outputs.push(Output::new(vec![n]));
            assert_eq!(outputs.len(), usize::from(n));
        }
        assert_eq!(outputs.as_slice()[2].value(), Some(&[3][..]));
    }
}
