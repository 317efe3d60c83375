//! Bytes in a line of the spill journal: a JSON string where they are text, else `{"base64": ".."}`. Used by the
//! format only; pure. It must give back exactly the bytes it was given.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// See the module.
#[derive(Debug)]
pub(super) struct Blob<'a>(Cow<'a, [u8]>);

impl<'a> From<&'a [u8]> for Blob<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }
}

impl From<Blob<'_>> for Bytes {
    fn from(blob: Blob<'_>) -> Self {
        blob.0.into_owned().into()
    }
}

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if is_readable(text) => serializer.serialize_str(text),
            _ => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &BASE64_STANDARD.encode(&self.0))?;
                map.end()
            }
        }
    }
}

/// Whether text is shorter as a string than in base64: a control character takes six bytes there.
fn is_readable(text: &str) -> bool {
    let is_control = |byte: &u8| *byte < b' ' && !b"\n\r\t".contains(byte);
    text.len() >= 15 * text.bytes().filter(is_control).count()
}

impl<'de: 'a, 'a> Deserialize<'de> for Blob<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BlobVisitor)
    }
}

struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = Blob<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"base64\": \"..\"}")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Blob(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Blob(Cow::Owned(text.as_bytes().to_vec())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut bytes = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == "base64" {
                let text: Cow<'de, str> = map.next_value()?;
                let decoded = BASE64_STANDARD.decode(text.as_bytes());
                bytes = Some(decoded.map_err(A::Error::custom)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        let bytes = bytes.ok_or_else(|| A::Error::missing_field("base64"))?;
        Ok(Blob(Cow::Owned(bytes)))
    }
}
