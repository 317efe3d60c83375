//! Records put together one at a time, by tests mostly.

use std::fmt;

use super::{Record, RecordBuffer, SourcePartition};

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
    pub(super) fn new(partition: SourcePartition, offset: i64) -> Self {
        Self {
            partition,
            offset,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

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
        buffer.push(
            self.offset,
            self.timestamp_ms,
            self.key.as_deref(),
            self.value.as_deref(),
            self.headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_deref())),
        );
        buffer.freeze(&self.partition).swap_remove(0)
    }
}

impl fmt::Debug for RecordBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordBuilder({}-{})", self.partition, self.offset)
    }
}
