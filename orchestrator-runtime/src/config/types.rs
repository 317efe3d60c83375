//! The typed values that configuration turns into. Made by the parser, read by everybody; nothing here reads text itself.

use std::fmt;

/// A closed set of words.
pub(crate) trait Choice: Copy + 'static {
    /// The words, in the order of [`VALUES`](Choice::VALUES).
    const WORDS: &'static [&'static str];
    /// The values.
    const VALUES: &'static [Self];
    /// The word of a value.
    fn word(self) -> &'static str;
}

/// Gives an enum its words; leaves no variant out, because the match would not compile.
macro_rules! choice {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl Choice for $name {
            const WORDS: &'static [&'static str] = &[$($word),+];
            const VALUES: &'static [Self] = &[$(Self::$variant),+];
            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

pub use orchestrator_core::{AtomicOnPoison, FailureMode};

choice!(FailureMode { Atomic = "ATOMIC", SkipAndLog = "SKIP_AND_LOG" });

choice!(AtomicOnPoison { Block = "BLOCK", Dlq = "DLQ", Stop = "STOP" });

/// The delivery guarantee asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Outputs and offsets commit together.
    ExactlyOnce,
    /// Reserved.
    AtLeastOnce,
}
choice!(Delivery { ExactlyOnce = "EXACTLY_ONCE", AtLeastOnce = "AT_LEAST_ONCE" });

/// Where a group without offsets starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// At the first record there is.
    Earliest,
    /// At the first record written from now on.
    Latest,
}
choice!(StartFrom { Earliest = "EARLIEST", Latest = "LATEST" });

/// What happens when the next offset is gone from the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOffsetLost {
    /// The partition is held.
    Hold,
    /// Reading goes on from the first record there is.
    Earliest,
}
choice!(OnOffsetLost { Hold = "HOLD", Earliest = "EARLIEST" });

/// What is written to the ledger, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing: failures are logged and counted.
    None,
    /// A row per failure.
    Lightweight,
    /// A row per record, in bulk.
    Outbox,
    /// A row per record, a statement each.
    Reliable,
}
choice!(Strategy { None = "NONE", Lightweight = "LIGHTWEIGHT", Outbox = "OUTBOX", Reliable = "RELIABLE" });

/// Which rows of the ledger keep the record's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePayload {
    /// No row.
    None,
    /// Rows of failures.
    Failed,
    /// Every row.
    All,
}
choice!(StorePayload { None = "NONE", Failed = "FAILED", All = "ALL" });

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, in the shape of the Elastic Common Schema.
    Json,
    /// For people; coloured on a terminal unless `NO_COLOR` is set.
    Pretty,
}
choice!(LogFormat { Json = "JSON", Pretty = "PRETTY" });

/// Where one record stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordCoordinates {
    /// The source topic.
    pub topic: String,
    /// The partition, from 0.
    pub partition: i32,
    /// The offset, from 0.
    pub offset: i64,
}

impl fmt::Display for RecordCoordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.topic, self.partition, self.offset)
    }
}

/// What stands in the place of a secret wherever configuration is shown.
pub(crate) const MASK: &str = "***";

/// Text that is never shown: `Debug` prints a mask, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one who connects with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}
