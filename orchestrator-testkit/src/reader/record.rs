//! A record as the independent reader hands it out.
//!
//! Made by `topic.rs`, used by tests. It copies everything and judges nothing.

use std::fmt;
use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Headers, Message};

/// A record as it lies in a topic.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970, if it has a timestamp.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order; names may repeat.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl ReadRecord {
    pub(super) fn copy(message: &BorrowedMessage<'_>, topic: &Arc<str>) -> Self {
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec)))
                .collect()
        });
        Self {
            topic: topic.clone(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }

    /// The key as text; empty if there is none or it is not UTF-8.
    pub fn key_text(&self) -> &str {
        text(self.key.as_deref())
    }

    /// The value as text; empty if there is none or it is not UTF-8.
    pub fn value_text(&self) -> &str {
        text(self.value.as_deref())
    }

    /// The last header of this name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(n, _)| n == name)?;
        value.as_deref().map(|v| text(Some(v)))
    }
}

fn text(bytes: Option<&[u8]>) -> &str {
    bytes
        .and_then(|b| std::str::from_utf8(b).ok())
        .unwrap_or_default()
}

impl fmt::Debug for ReadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |bytes: &Option<Vec<u8>>| {
            bytes
                .as_ref()
                .map(|b| String::from_utf8_lossy(b).into_owned())
        };
        let headers: Vec<_> = self.headers.iter().map(|(n, v)| (n, show(v))).collect();
        f.debug_struct("ReadRecord")
            .field(
                "at",
                &format_args!("{}-{}@{}", self.topic, self.partition, self.offset),
            )
            .field("timestamp", &self.timestamp)
            .field("key", &show(&self.key))
            .field("value", &show(&self.value))
            .field("headers", &headers)
            .finish()
    }
}
