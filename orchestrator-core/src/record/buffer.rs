//! The buffer that a session reads a batch into. Nothing is allocated per record.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::{Layout, NULL, Record, Shared, SourcePartition};

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
