//! A record of any of the audited topics, as it lies there. Made by `tail`, looked at by books; it owns nothing.

use std::fmt;

/// A record as the auditor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order; names may repeat.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl<'a> Seen<'a> {
    /// The value of the last header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let (_, value) = self
            .headers
            .iter()
            .rev()
            .find(|(found, _)| *found == name)?;
        *value
    }
}

/// Where it lies; never what is in it.
impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (topic, partition) = (self.topic, self.partition);
        write!(f, "{topic}:{partition}:{}", self.offset)
    }
}
