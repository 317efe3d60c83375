//! Rows of the ledger, made of failures: bytes stay bytes, sizes are capped, text is cleaned, so that no database
//! refuses a row for its content. Made by strategies, written by stores. It must never fail, whatever the record.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dead_letter::{KEY_OMITTED, VALUE_OMITTED};
use crate::error::FailureClass;
use crate::failure::FailureRecord;
use crate::record::{DEDUP_KEY_HEADER, Record, SourcePosition, Topic};
use crate::text;

/// What `record_timestamp_ms` is for a record without a timestamp: a null would make unique keys ineffective.
pub const NO_TIMESTAMP: i64 = -1;

/// The largest key kept; of a larger one the row's headers tell the size.
pub const KEY_MAX_BYTES: usize = 64 * 1024;
/// The largest payload kept; of a larger one the row's headers tell the size.
pub const PAYLOAD_MAX_BYTES: usize = 1024 * 1024;
/// The most header bytes kept, in the form they are stored in.
pub const HEADERS_MAX_BYTES: usize = 64 * 1024;
/// The longest `error_message`.
pub const MESSAGE_MAX_BYTES: usize = 4 * 1024;
/// The longest `error_chain`.
pub const CHAIN_MAX_BYTES: usize = 16 * 1024;
/// The longest dedup key.
pub const DEDUP_KEY_MAX_BYTES: usize = 512;

/// The state of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LedgerStatus {
    /// Taken, outcome not known yet.
    Received,
    /// Transformed and passed.
    Success,
    /// Failed for good; provisional while `passed_at` is null.
    Failed,
    /// Passed, but whether as a success or a failure is not known.
    Unknown,
}

impl LedgerStatus {
    /// The name stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "RECEIVED",
            Self::Success => "SUCCESS",
            Self::Failed => "FAILED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Why the record of a row failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Its class.
    pub class: FailureClass,
    /// Its text.
    pub message: String,
    /// Its type, stage, text and causes, one a line.
    pub chain: String,
}

/// One row, without what the store adds: whose it is, its status and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// Where the record stands.
    pub position: SourcePosition,
    /// Its timestamp, or [`NO_TIMESTAMP`].
    pub record_timestamp_ms: i64,
    /// The topic its outputs were meant for.
    pub target_topic: Option<Topic>,
    /// Its key.
    pub message_key: Option<Bytes>,
    /// Its headers as a JSON array of `[name, value]`; a value is a string, null, or `{"hex": ".."}` if it is not
    /// UTF-8. `orchestrator.value-omitted` and `orchestrator.key-omitted` tell the size of what was not kept.
    pub headers: Bytes,
    /// How many tries were made.
    pub attempts: u32,
    /// What duplicates are recognised by.
    pub dedup_key: String,
    /// The dedup key it came with, if it did: it was redriven, or is an output of another pipeline.
    pub origin_dedup_key: Option<String>,
    /// Why it failed.
    pub error: Option<RowError>,
    /// Its value.
    pub payload: Option<Bytes>,
    /// Whether a dead letter is written in the transaction that passes it.
    pub dead_lettered: bool,
    /// When its batch was taken, in milliseconds since 1970.
    pub fence: i64,
    /// When its offset was committed, if that is known by now.
    pub passed_at_ms: Option<i64>,
}

impl LedgerRow {
    /// The row of a record that failed.
    pub fn failed(failed: &FailureRecord, keep_payload: bool) -> Self {
        let failure = &failed.failure;
        Self {
            target_topic: failed.target_topic.clone(),
            attempts: failure.attempts,
            error: Some(RowError {
                class: failure.class,
                message: text::clean(&failure.message, MESSAGE_MAX_BYTES),
                chain: text::trace(failure, CHAIN_MAX_BYTES),
            }),
            dead_lettered: failed.dead_lettered,
            ..Self::taken(&failed.record, failed.fence, keep_payload, true)
        }
    }

    /// The row of a record that was taken.
    ///
    /// That its payload is not kept is not said of it: it is by order, and a failure's row says it.
    pub fn received(record: &Record, fence: i64, keep_payload: bool) -> Self {
        Self::taken(record, fence, keep_payload, keep_payload)
    }

    fn taken(record: &Record, fence: i64, keep_payload: bool, say_omitted: bool) -> Self {
        let key = record.key().filter(|key| key.len() <= KEY_MAX_BYTES);
        let payload = record
            .value_bytes()
            .filter(|value| keep_payload && value.len() <= PAYLOAD_MAX_BYTES);
        let mut omitted = Vec::new();
        if let (None, Some(value), true) = (&payload, record.value(), say_omitted) {
            omitted.push((VALUE_OMITTED, value.len()));
        }
        if let (None, Some(key)) = (key, record.key()) {
            omitted.push((KEY_OMITTED, key.len()));
        }
        let dedup_key = text::clean(record.dedup_key().as_str(), DEDUP_KEY_MAX_BYTES);
        let has_own = record
            .header(DEDUP_KEY_HEADER)
            .is_some_and(|key| !key.is_empty());
        Self {
            position: record.position(),
            record_timestamp_ms: record.timestamp_ms().unwrap_or(NO_TIMESTAMP),
            target_topic: None,
            message_key: key.map(Bytes::copy_from_slice),
            headers: headers(record, &omitted),
            attempts: 0,
            origin_dedup_key: has_own.then(|| dedup_key.clone()),
            dedup_key,
            error: None,
            payload,
            dead_lettered: false,
            fence,
            passed_at_ms: None,
        }
    }

    /// The same row with nothing in it but what a store cannot refuse and memory can hold: coordinates, numbers
    /// and short text.
    #[must_use]
    pub fn bare(mut self) -> Self {
        let printable = |text: &str| -> String {
            let printable = |c: &char| c.is_ascii_graphic() || *c == ' ';
            text.chars().filter(printable).take(200).collect()
        };
        let sizes = [
            (VALUE_OMITTED, &self.payload),
            (KEY_OMITTED, &self.message_key),
        ];
        let omitted =
            sizes.map(|(name, bytes)| Some(json!([name, bytes.as_ref()?.len().to_string()])));
        let omitted: Vec<Value> = omitted.into_iter().flatten().collect();
        self.headers = Value::Array(omitted).to_string().into();
        self.message_key = None;
        self.payload = None;
        self.dedup_key = printable(&self.dedup_key);
        self.origin_dedup_key = self.origin_dedup_key.as_deref().map(printable);
        self.error = self.error.map(|error| RowError {
            class: error.class,
            message: printable(&error.message),
            chain: String::new(),
        });
        self
    }

    /// What it takes in memory, about.
    pub fn size(&self) -> usize {
        let error = self
            .error
            .as_ref()
            .map_or(0, |error| error.message.len() + error.chain.len());
        let bytes = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        size_of::<Self>()
            + bytes(&self.message_key)
            + bytes(&self.payload)
            + self.headers.len()
            + self.dedup_key.len()
            + self.origin_dedup_key.as_ref().map_or(0, String::len)
            + error
    }
}

/// Headers as JSON, as many as there is room for.
fn headers(record: &Record, omitted: &[(&str, usize)]) -> Bytes {
    let said = omitted
        .iter()
        .map(|(name, size)| json!([name, size.to_string()]));
    let source = record
        .headers()
        .filter(|(_, value)| value.is_none_or(|v| v.len() <= HEADERS_MAX_BYTES));
    let source = source
        .map(|(name, value)| json!([name.replace('\0', "\u{FFFD}"), value.map(header_value)]));
    let mut json = String::from("[");
    for header in said.chain(source) {
        let header = header.to_string();
        if json.len() + header.len() + 2 > HEADERS_MAX_BYTES {
            continue;
        }
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&header);
    }
    json.push(']');
    json.into()
}

fn header_value(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => json!(text),
        Err(_) => {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

#[cfg(test)]
#[path = "ledger_row_tests.rs"]
mod tests;
