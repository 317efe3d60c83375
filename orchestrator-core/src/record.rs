//! Records: what is read from a source, cheap to clone because a whole batch shares one buffer.
//! Filled by a session through [`RecordBuffer`], read by transformers. Nothing here does I/O.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

/// The header by which a record says which dedup key it already has (a redriven record, say).
pub const DEDUP_KEY_HEADER: &str = "orchestrator.dedup-key";

/// The name of a topic (or, for other sources, of a stream or a table); cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// A topic of this name. The name is not checked here: the broker is the judge of names.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self(Arc::from(name.as_ref()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Topic {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Topic {
    fn from(name: String) -> Self {
        Self(Arc::from(name))
    }
}

impl Deref for Topic {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One partition of one source. Sources without partitions use partition 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePartition {
    /// The topic (stream, table).
    pub topic: Topic,
    /// The partition, from 0.
    pub partition: i32,
}

impl SourcePartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Topic>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }

    /// The position of `offset` in this partition.
    pub fn at(&self, offset: i64) -> SourcePosition {
        SourcePosition {
            partition: self.clone(),
            offset,
        }
    }
}

impl fmt::Display for SourcePartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Where a record stands in its source: partition and offset. Offsets have gaps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePosition {
    /// The partition.
    pub partition: SourcePartition,
    /// The offset in it.
    pub offset: i64,
}

impl fmt::Display for SourcePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.offset)
    }
}

/// What makes two deliveries of the same record recognisable as one: `topic-partition-offset`, or the
/// value of the record's own [`DEDUP_KEY_HEADER`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DedupKey(String);

impl DedupKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DedupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a record's key, value and headers lie in the shared buffer, one behind the other. A length of `NULL` stands
/// for Kafka's null.
#[derive(Clone, Copy)]
struct Layout {
    start: u32,
    key: u32,
    value: u32,
    headers: u32,
}

const NULL: u32 = u32::MAX;

/// The bytes of a part of that length.
fn bytes_of(len: u32) -> usize {
    if len == NULL { 0 } else { len as usize }
}

impl Layout {
    fn size(self) -> usize {
        bytes_of(self.key) + bytes_of(self.value) + bytes_of(self.headers)
    }
}

/// What the records of a batch share.
struct Shared {
    partition: SourcePartition,
    bytes: Bytes,
}

/// One record of a source. Cloning copies no bytes: the records of a batch share one buffer, which lives as
/// long as any of them. A record that is kept for long is [`detached`](Record::detached) first.
#[derive(Clone)]
pub struct Record {
    shared: Arc<Shared>,
    offset: i64,
    timestamp_ms: Option<i64>,
    layout: Layout,
}

impl Record {
    /// A record with the given position, for tests and for sources that build records one at a time.
    pub fn builder(topic: impl Into<Topic>, partition: i32, offset: i64) -> RecordBuilder {
        RecordBuilder {
            partition: SourcePartition::new(topic, partition),
            offset,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    /// The partition it was read from.
    pub fn partition(&self) -> &SourcePartition {
        &self.shared.partition
    }

    /// The topic it was read from.
    pub fn topic(&self) -> &Topic {
        &self.shared.partition.topic
    }

    /// Its offset.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Its position.
    pub fn position(&self) -> SourcePosition {
        self.shared.partition.at(self.offset)
    }

    /// Its timestamp in milliseconds since 1970, if it has one.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.timestamp_ms
    }

    /// Its key; `None` is Kafka's null, not an empty key.
    pub fn key(&self) -> Option<&[u8]> {
        self.part(0, self.layout.key)
    }

    /// Its value; `None` is a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.part(bytes_of(self.layout.key), self.layout.value)
    }

    /// Its value as shared bytes, without a copy.
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.value().map(|value| self.shared.bytes.slice_ref(value))
    }

    /// Its headers, in order; names may repeat.
    pub fn headers(&self) -> Headers<'_> {
        let before = bytes_of(self.layout.key) + bytes_of(self.layout.value);
        Headers {
            rest: self.part(before, self.layout.headers).unwrap_or_default(),
        }
    }

    /// The value of the last header of that name, if there is one and it is not null.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut found = None;
        for (header, value) in self.headers() {
            if header == name {
                found = value;
            }
        }
        found
    }

    /// What its failure row, its outputs and its log lines are recognised by.
    pub fn dedup_key(&self) -> DedupKey {
        match self.header(DEDUP_KEY_HEADER) {
            Some(key) if !key.is_empty() => DedupKey(String::from_utf8_lossy(key).into_owned()),
            _ => DedupKey(self.position().to_string()),
        }
    }

    /// The bytes of key, value and headers together.
    pub fn size(&self) -> usize {
        self.layout.size()
    }

    /// The same record in a buffer of its own, so that keeping it does not keep its whole batch.
    #[must_use]
    pub fn detached(&self) -> Self {
        let start = self.layout.start as usize;
        let own = &self.shared.bytes[start..start + self.layout.size()];
        Self {
            shared: Arc::new(Shared {
                partition: self.shared.partition.clone(),
                bytes: Bytes::copy_from_slice(own),
            }),
            layout: Layout {
                start: 0,
                ..self.layout
            },
            ..*self
        }
    }

    fn part(&self, before: usize, len: u32) -> Option<&[u8]> {
        if len == NULL {
            return None;
        }
        let start = self.layout.start as usize + before;
        Some(&self.shared.bytes[start..start + len as usize])
    }
}

/// Positions and sizes only: payloads do not belong in logs.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("position", &format_args!("{}", self.position()))
            .field("key_bytes", &self.key().map(<[u8]>::len))
            .field("value_bytes", &self.value().map(<[u8]>::len))
            .finish_non_exhaustive()
    }
}

/// The headers of a record: name and value, `None` for a null value. Names that are not UTF-8 were replaced
/// when the record was read.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = take_part(self.rest)?;
        let (value, rest) = take_part(rest)?;
        self.rest = rest;
        let name = std::str::from_utf8(name.unwrap_or_default()).unwrap_or_default();
        Some((name, value))
    }
}

/// One length-prefixed part and what follows it.
fn take_part(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    match u32::from_le_bytes(*len) {
        NULL => Some((None, rest)),
        len => rest
            .split_at_checked(len as usize)
            .map(|(part, rest)| (Some(part), rest)),
    }
}

/// Collects the records of one batch into one buffer: each payload is copied once, and nothing is allocated
/// per record.
#[derive(Default)]
pub struct RecordBuffer {
    buffer: BytesMut,
    entries: Vec<Buffered>,
}

struct Buffered {
    offset: i64,
    timestamp_ms: Option<i64>,
    layout: Layout,
}

impl RecordBuffer {
    /// Appends a record. `headers` come in order; the buffer must stay below 4 GiB, which batch limits see to.
    pub fn push<'a>(
        &mut self,
        offset: i64,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) {
        let start = self.buffer.len();
        let key = self.put(key);
        let value = self.put(value);
        let before_headers = self.buffer.len();
        for (name, value) in headers {
            self.put_part(Some(name.as_bytes()));
            self.put_part(value);
        }
        let layout = Layout {
            start: start as u32,
            key,
            value,
            headers: (self.buffer.len() - before_headers) as u32,
        };
        self.entries.push(Buffered {
            offset,
            timestamp_ms,
            layout,
        });
    }

    /// How many records are in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of all payloads in it.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The records, all of `partition`, sharing one buffer.
    pub fn freeze(self, partition: &SourcePartition) -> Vec<Record> {
        let shared = Arc::new(Shared {
            partition: partition.clone(),
            bytes: self.buffer.freeze(),
        });
        self.entries
            .into_iter()
            .map(|entry| Record {
                shared: shared.clone(),
                offset: entry.offset,
                timestamp_ms: entry.timestamp_ms,
                layout: entry.layout,
            })
            .collect()
    }

    fn put(&mut self, bytes: Option<&[u8]>) -> u32 {
        self.buffer.put_slice(bytes.unwrap_or_default());
        bytes.map_or(NULL, |bytes| bytes.len() as u32)
    }

    fn put_part(&mut self, bytes: Option<&[u8]>) {
        self.buffer
            .put_u32_le(bytes.map_or(NULL, |bytes| bytes.len() as u32));
        self.buffer.put_slice(bytes.unwrap_or_default());
    }
}

impl fmt::Debug for RecordBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBuffer")
            .field("records", &self.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}

/// Builds one record; see [`Record::builder`].
#[derive(Clone)]
pub struct RecordBuilder {
    partition: SourcePartition,
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl RecordBuilder {
    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the value; without it the record is a tombstone.
    #[must_use]
    pub fn value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Sets the timestamp, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Appends a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// The record.
    pub fn build(self) -> Record {
        let mut buffer = RecordBuffer::default();
        let Self { headers, .. } = &self;
        buffer.push(
            self.offset,
            self.timestamp_ms,
            self.key.as_deref(),
            self.value.as_deref(),
            headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_deref())),
        );
        let layout = buffer.entries[0].layout;
        Record {
            shared: Arc::new(Shared {
                partition: self.partition,
                bytes: buffer.buffer.freeze(),
            }),
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            layout,
        }
    }
}

impl fmt::Debug for RecordBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordBuilder({}-{})", self.partition, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_what_was_put_in() {
        let record = Record::builder("orders", 3, 7)
            .key("k")
            .value("v")
            .timestamp_ms(5)
            .header("a", "1")
            .header("a", "2")
            .build();
        assert_eq!(record.key(), Some(&b"k"[..]));
        assert_eq!(record.value(), Some(&b"v"[..]));
        assert_eq!(record.header("a"), Some(&b"2"[..]));
        assert_eq!(record.header("b"), None);
        assert_eq!(record.headers().count(), 2);
        assert_eq!(record.dedup_key().as_str(), "orders-3-7");
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        let record = Record::builder("t", 0, 0).key("").build();
        assert_eq!(record.key(), Some(&b""[..]));
        assert_eq!(record.value(), None);
        assert_eq!(record.value_bytes(), None);
    }

    #[test]
    fn a_detached_record_reads_the_same_and_frees_its_batch() {
        let mut buffer = RecordBuffer::default();
        for offset in 0..100 {
            let value = offset.to_string();
            buffer.push(
                offset,
                None,
                Some(b"key"),
                Some(value.as_bytes()),
                [("h", None), ("i", Some(&b"x"[..]))],
            );
        }
        let records = buffer.freeze(&SourcePartition::new("t", 0));
        let own = records[42].detached();
        assert_eq!(own.shared.bytes.len(), own.size());
        assert_eq!(own.value(), Some(&b"42"[..]));
        assert_eq!(own.key(), Some(&b"key"[..]));
        assert!(own.headers().eq([("h", None), ("i", Some(&b"x"[..]))]));
    }

    #[test]
    fn the_dedup_key_of_an_earlier_trip_is_kept() {
        let record = Record::builder("t", 0, 9)
            .header(DEDUP_KEY_HEADER, "orders-1-2")
            .build();
        assert_eq!(record.dedup_key().as_str(), "orders-1-2");
    }
}
