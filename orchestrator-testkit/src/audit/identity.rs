//! By what a record of the source is known again in its outputs. Parsed from the command line; pure.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use serde_json::Value;

use super::Seen;

const DEDUP_KEY: &str = "orchestrator.dedup-key";

/// Where a record's identity is found. It must be unique to each source record, and the same in all of its outputs.
///
/// ```
/// use orchestrator_testkit::audit::Identity;
/// assert_eq!("json:/order_id".parse(), Ok(Identity::Json("/order_id".to_owned())));
/// assert!("json:order_id".parse::<Identity>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// `key`: the whole key.
    Key,
    /// `value`: the whole value, where outputs are what went in.
    Value,
    /// `header:NAME`: the value of the last header of this name.
    Header(String),
    /// `json:/pointer`: what an RFC 6901 pointer finds in the value; texts and numbers are compared as text.
    Json(String),
    /// `prefix:SEP`: the value up to the first SEP.
    Prefix(String),
    /// `dedup-key`: the header `orchestrator.dedup-key` without its `#i`, or `topic-partition-offset` where there is
    /// none. Outputs have it with `ORCH_OUTPUT_DEDUP_HEADER=true`; the source needs nothing.
    DedupKey,
}

/// An identity as it is kept: 128 bits of hash, so that nothing of a record's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(u64, u64);

impl Id {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let hash = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, bytes).hash(&mut hasher);
            hasher.finish()
        };
        Self(hash(0), hash(1))
    }
}

impl Identity {
    /// Of a record of the source or an output; none if it has none.
    pub(super) fn of(&self, seen: &Seen<'_>) -> Option<Id> {
        let found: Cow<'_, [u8]> = match self {
            Self::Key => seen.key?.into(),
            Self::Value => seen.value?.into(),
            Self::Header(name) => seen.header(name)?.into(),
            Self::Json(pointer) => match serde_json::from_slice::<Value>(seen.value?)
                .ok()?
                .pointer(pointer)?
            {
                Value::Null => return None,
                Value::String(text) => text.clone().into_bytes().into(),
                other => other.to_string().into_bytes().into(),
            },
            Self::Prefix(end) => {
                let value = seen.value?;
                let mut places = value.windows(end.len());
                value[..places.position(|place| place == end.as_bytes())?].into()
            }
            Self::DedupKey => match seen.header(DEDUP_KEY) {
                Some(key) if !key.is_empty() => without_index(key).into(),
                _ => format!("{}-{}-{}", seen.topic, seen.partition, seen.offset)
                    .into_bytes()
                    .into(),
            },
        };
        Some(Id::of(&found))
    }
}

/// Without the `#` and the number that outputs have behind the key.
fn without_index(key: &[u8]) -> &[u8] {
    let digits = key.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    match key[..key.len() - digits].split_last() {
        Some((b'#', rest)) if digits > 0 => rest,
        _ => key,
    }
}

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("key", "") => Ok(Self::Key),
            ("value", "") => Ok(Self::Value),
            ("dedup-key", "") => Ok(Self::DedupKey),
            ("header", "") => Err("header: lacks the header's name, as in header:order-id".into()),
            ("header", name) => Ok(Self::Header(name.to_owned())),
            ("json", pointer) if pointer.starts_with('/') => Ok(Self::Json(pointer.to_owned())),
            ("json", _) => {
                Err("a JSON pointer begins with a slash (RFC 6901), as in json:/order_id".into())
            }
            ("prefix", "") => {
                Err("prefix: lacks what ends the identity, as in prefix:; or prefix:,".into())
            }
            ("prefix", end) => Ok(Self::Prefix(end.to_owned())),
            _ => Err(format!(
                "{kind:?} is no place of an identity: give key, value, header:NAME, json:/pointer, \
                 prefix:SEP or dedup-key"
            )),
        }
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
