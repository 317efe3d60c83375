//! What a line of the spill journal looks like: the one place that turns entries into text and back. Called by the
//! append side and by segments; pure. It must never fail or panic on what it reads: a line is whole, or it is damaged.
//!
//! Each line is a JSON object whose last member is `crc`: the CRC-32 (IEEE) of the line's bytes before `,"crc":`, as
//! eight hex digits. The first line of a file is its [`Header`]. Absent members have defaults and unknown ones are
//! ignored, so that rows may gain members without a new version.

use std::borrow::Cow;
use std::io::{self, Write};

use bytes::Bytes;
use orchestrator_core::ledger_row::{LedgerRow, NO_TIMESTAMP, RowError};
use orchestrator_core::{FailureClass, LedgerIdentity, OffsetRange, SourcePartition};
use serde::{Deserialize, Serialize};

use super::Entry;
use super::blob::Blob;

const FORMAT: &str = "orchestrator-spill";
/// What this version writes; it reads this one and older ones.
const VERSION: u32 = 1;
/// How every entry's line starts. It cannot occur inside a line, where quotes are escaped.
const ENTRY_START: &[u8] = b"{\"entry\":\"";
const HEADER_START: &[u8] = b"{\"format\":\"";
const CRC_START: &[u8] = b",\"crc\":\"";
const CRC_END: &[u8] = b"\"}";
const NO_HEADERS: &[u8] = b"[]";

/// The first line of a file: whose entries follow.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    version: u32,
    #[serde(borrow)]
    cluster_id: Cow<'a, str>,
    #[serde(borrow)]
    consumer_group: Cow<'a, str>,
}

/// A whole line.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Header(Header<'a>),
    Entry(Entry),
}

/// What a header says of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    /// Of another cluster or group.
    Other,
    /// Of a later version of this program.
    TooNew,
}

impl Header<'_> {
    pub(super) fn whose(&self, ledger: &LedgerIdentity) -> Whose {
        let ours =
            self.cluster_id == ledger.cluster_id && self.consumer_group == ledger.consumer_group;
        if !ours || self.format != FORMAT {
            Whose::Other
        } else if self.version > VERSION {
            Whose::TooNew
        } else {
            Whose::Ours
        }
    }
}

/// Writes the first line of a file.
pub(super) fn write_header(ledger: &LedgerIdentity, to: &mut Vec<u8>) -> io::Result<()> {
    let header = Header {
        format: FORMAT.into(),
        version: VERSION,
        cluster_id: ledger.cluster_id.as_str().into(),
        consumer_group: ledger.consumer_group.as_str().into(),
    };
    write_line(&header, to)
}

/// Writes the line of an entry.
pub(super) fn write_entry(entry: &Entry, to: &mut Vec<u8>) -> io::Result<()> {
    write_line(&EntryLine::from(entry), to)
}

fn write_line(line: &impl Serialize, to: &mut Vec<u8>) -> io::Result<()> {
    let start = to.len();
    serde_json::to_writer(&mut *to, line)?;
    // Its closing brace makes room for the checksum.
    to.pop();
    let crc = crc32fast::hash(&to[start..]);
    to.extend_from_slice(CRC_START);
    write!(to, "{crc:08x}")?;
    to.extend_from_slice(CRC_END);
    to.push(b'\n');
    Ok(())
}

/// Reads what lies between two line ends. Gives back how many lines were lost in it.
///
/// Usually that is one line. Where the line end itself is damaged it is two, and neither is lost.
pub(super) fn read_lines(text: &[u8], mut each: impl FnMut(Line<'_>)) -> usize {
    if text.is_empty() {
        return 0;
    }
    if let Some(line) = parse(text) {
        each(line);
        return 0;
    }
    let starts = text.windows(ENTRY_START.len()).enumerate().skip(1);
    let starts = starts.filter_map(|(at, window)| (window == ENTRY_START).then_some(at));
    let (mut from, mut lost) = (0, 0);
    for until in starts.chain([text.len()]) {
        let piece = &text[from..until];
        match parse(piece).or_else(|| parse(&piece[..piece.len() - 1])) {
            Some(line) => each(line),
            None => lost += 1,
        }
        from = until;
    }
    lost
}

/// The line, if it is whole.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let body = line
        .len()
        .checked_sub(CRC_START.len() + 8 + CRC_END.len())?;
    let (body, tail) = line.split_at(body);
    let digits = tail.strip_prefix(CRC_START)?.strip_suffix(CRC_END)?;
    if digits != format!("{:08x}", crc32fast::hash(body)).as_bytes() {
        return None;
    }
    if line.starts_with(HEADER_START) {
        return Some(Line::Header(serde_json::from_slice(line).ok()?));
    }
    let line: EntryLine<'_> = serde_json::from_slice(line).ok()?;
    Some(Line::Entry(line.into()))
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Received,
    Failed,
    Passed,
    Succeeded,
}

/// All that an entry's line may have. What equals its default is left out.
#[derive(Serialize, Deserialize)]
struct EntryLine<'a> {
    entry: Kind,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    partition: i32,
    /// Of a range the first.
    offset: i64,
    /// Of a range one past the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record_timestamp_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_topic: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_key: Option<Blob<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Blob<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_dedup_key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_class: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_chain: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Blob<'a>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dead_lettered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passed_at_ms: Option<i64>,
}

impl<'a> EntryLine<'a> {
    fn bare(entry: Kind, partition: &'a SourcePartition, offset: i64) -> Self {
        Self {
            entry,
            topic: partition.topic.as_str().into(),
            partition: partition.partition,
            offset,
            next: None,
            at_ms: None,
            record_timestamp_ms: None,
            target_topic: None,
            message_key: None,
            headers: None,
            attempts: None,
            dedup_key: None,
            origin_dedup_key: None,
            error_class: None,
            error_message: None,
            error_chain: None,
            payload: None,
            dead_lettered: false,
            fence: None,
            passed_at_ms: None,
        }
    }

    fn row(entry: Kind, row: &'a LedgerRow) -> Self {
        let timestamp = Some(row.record_timestamp_ms);
        let error = row.error.as_ref();
        Self {
            record_timestamp_ms: timestamp.filter(|at| *at != NO_TIMESTAMP),
            target_topic: row.target_topic.as_deref().map(Cow::from),
            message_key: row.message_key.as_deref().map(Blob::from),
            headers: Some(&*row.headers)
                .filter(|headers| *headers != NO_HEADERS)
                .map(Blob::from),
            attempts: Some(row.attempts).filter(|attempts| *attempts != 0),
            dedup_key: Some(row.dedup_key.as_str().into()),
            origin_dedup_key: row.origin_dedup_key.as_deref().map(Cow::from),
            error_class: error.map(|error| error.class.as_str().into()),
            error_message: error.map(|error| error.message.as_str().into()),
            error_chain: error.map(|error| error.chain.as_str().into()),
            payload: row.payload.as_deref().map(Blob::from),
            dead_lettered: row.dead_lettered,
            fence: Some(row.fence),
            passed_at_ms: row.passed_at_ms,
            ..Self::bare(entry, &row.position.partition, row.position.offset)
        }
    }

    fn into_row(self, partition: SourcePartition) -> Box<LedgerRow> {
        let position = partition.at(self.offset);
        let error = self.error_class.map(|class| RowError {
            class: failure_class(&class),
            message: self.error_message.unwrap_or_default().into_owned(),
            chain: self.error_chain.unwrap_or_default().into_owned(),
        });
        Box::new(LedgerRow {
            record_timestamp_ms: self.record_timestamp_ms.unwrap_or(NO_TIMESTAMP),
            target_topic: self.target_topic.map(|topic| (&*topic).into()),
            message_key: self.message_key.map(Bytes::from),
            headers: self
                .headers
                .map_or(Bytes::from_static(NO_HEADERS), Bytes::from),
            attempts: self.attempts.unwrap_or(0),
            dedup_key: self
                .dedup_key
                .map_or_else(|| position.to_string(), Cow::into_owned),
            origin_dedup_key: self.origin_dedup_key.map(Cow::into_owned),
            error,
            payload: self.payload.map(Bytes::from),
            dead_lettered: self.dead_lettered,
            fence: self.fence.unwrap_or(0),
            passed_at_ms: self.passed_at_ms,
            position,
        })
    }
}

impl<'a> From<&'a Entry> for EntryLine<'a> {
    fn from(entry: &'a Entry) -> Self {
        match entry {
            Entry::Received(row) => Self::row(Kind::Received, row),
            Entry::Failed(row) => Self::row(Kind::Failed, row),
            Entry::Passed { position, at_ms } => Self {
                at_ms: Some(*at_ms),
                ..Self::bare(Kind::Passed, &position.partition, position.offset)
            },
            Entry::Succeeded { range, at_ms } => Self {
                next: Some(range.next),
                at_ms: Some(*at_ms),
                ..Self::bare(Kind::Succeeded, &range.partition, range.from)
            },
        }
    }
}

impl From<EntryLine<'_>> for Entry {
    fn from(line: EntryLine<'_>) -> Self {
        let partition = SourcePartition::new(&*line.topic, line.partition);
        let at_ms = line.at_ms.unwrap_or(0);
        match line.entry {
            Kind::Received => Self::Received(line.into_row(partition)),
            Kind::Failed => Self::Failed(line.into_row(partition)),
            Kind::Passed => Self::Passed {
                position: partition.at(line.offset),
                at_ms,
            },
            Kind::Succeeded => Self::Succeeded {
                range: OffsetRange {
                    partition,
                    from: line.offset,
                    next: line.next.unwrap_or(line.offset),
                },
                at_ms,
            },
        }
    }
}

/// A class of a later version is taken for a transient one: the row counts, whatever its class.
fn failure_class(name: &str) -> FailureClass {
    let known = [FailureClass::Permanent, FailureClass::Infrastructure];
    let known = known.into_iter().find(|class| class.as_str() == name);
    known.unwrap_or(FailureClass::Transient)
}

#[cfg(test)]
#[path = "format_tests.rs"]
pub(super) mod tests;
