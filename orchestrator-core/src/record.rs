//! Records: what is read from a source, cheap to clone because a whole batch shares one buffer.
//! Filled by a session through [`RecordBuffer`], read by transformers. Nothing here does I/O.

mod buffer;
mod builder;
mod position;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use buffer::RecordBuffer;
pub use builder::RecordBuilder;
pub use position::{SourcePartition, SourcePosition, Topic};

/// The header by which a record says which dedup key it already has (a redriven record, say).
pub const DEDUP_KEY_HEADER: &str = "orchestrator.dedup-key";

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
        RecordBuilder::new(SourcePartition::new(topic, partition), offset)
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

#[cfg(test)]
mod tests;
