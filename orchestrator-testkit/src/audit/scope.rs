//! What is audited, and what must be true of it. Set up by callers; it does nothing.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{Client, Identity, Ledger};

/// So many settled records are remembered, to tell copies that come late from strangers.
const REMEMBERED: usize = 1_000_000;

/// A program, by the topics that it reads and writes.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The cluster.
    pub client: Client,
    /// The program's consumer group.
    pub group: String,
    /// The topics that it reads.
    pub sources: Vec<String>,
    /// The topics that it writes, without dead letters.
    pub targets: Vec<String>,
    /// Where its dead letters go, if anywhere; other groups may use them too.
    pub dead_letters: Vec<String>,
    /// Its ledger, if it has one.
    pub ledger: Option<Ledger>,
    /// By what a record of the source is known.
    pub source_id: Identity,
    /// By what it is known in its outputs.
    pub output_id: Identity,
    /// How many outputs a record has.
    pub outputs: Outputs,
    /// Where the audit begins.
    pub start: Start,
    /// How many settled records are remembered; each takes about 100 bytes. A copy that comes later than so many
    /// records is told as of a record that nobody sent.
    pub remembered: usize,
}

impl Scope {
    /// Of a group that makes one output of each record, known by the same identity on both sides.
    pub fn new(client: Client, group: &str, source: &str, target: &str, id: Identity) -> Self {
        Self {
            client,
            group: group.to_owned(),
            sources: vec![source.to_owned()],
            targets: vec![target.to_owned()],
            dead_letters: Vec::new(),
            ledger: None,
            source_id: id.clone(),
            output_id: id,
            outputs: Outputs::default(),
            start: Start::Beginning,
            remembered: REMEMBERED,
        }
    }
}

/// How many outputs a record has that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outputs {
    least: u32,
    most: u32,
    may_filter: bool,
}

/// One.
impl Default for Outputs {
    fn default() -> Self {
        Self {
            least: 1,
            most: 1,
            may_filter: false,
        }
    }
}

impl Outputs {
    /// From the least to the most, or none as well if the least is 0.
    pub fn between(least: u32, most: u32) -> Self {
        Self {
            least: least.max(1),
            most: most.max(least),
            may_filter: least == 0,
        }
    }

    /// The same, or none.
    #[must_use]
    pub fn or_none(self) -> Self {
        Self {
            may_filter: true,
            ..self
        }
    }

    pub(super) fn most(self) -> u32 {
        self.most
    }

    pub(super) fn may_filter(self) -> bool {
        self.may_filter
    }

    /// All of a record's outputs are there, supposing that some are.
    pub(super) fn are_complete(self, found: u32) -> bool {
        found >= self.least
    }
}

impl FromStr for Outputs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        match (least.parse(), most.parse()) {
            (Ok(least), Ok(most)) if least <= most => Ok(Self::between(least, most)),
            _ => Err(format!(
                "{text:?} is no number of outputs: give a number, as in 1, or the least and the most, as in 0..3"
            )),
        }
    }
}

/// Where an audit begins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// `beginning`: with the first record. Nothing may have been deleted.
    Beginning,
    /// `committed`: with the group's committed offsets as they are when the audit begins.
    Committed,
    /// `TOPIC:PARTITION:OFFSET,..`: with these source offsets, other partitions with their first. Outputs of what
    /// lies before cannot be told from those of records that nobody sent, and are only counted.
    Offsets(BTreeMap<(String, i32), i64>),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            format!(
                "{text:?} is no start: give beginning, committed, or offsets as in orders:0:1200,orders:1:980"
            )
        };
        let offset = |entry: &str| {
            let (topic, rest) = entry.split_once(':')?;
            let (partition, offset) = rest.split_once(':')?;
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            let sound = !topic.is_empty() && partition >= 0 && offset >= 0;
            sound.then(|| ((topic.to_owned(), partition), offset))
        };
        match text {
            "beginning" => Ok(Self::Beginning),
            "committed" => Ok(Self::Committed),
            list => {
                let offsets = list.split(',').map(offset).collect::<Option<_>>();
                Ok(Self::Offsets(offsets.ok_or_else(bad)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn numbers_of_outputs_are_read() {
        for (text, least, most, may_filter) in [
            ("1", 1, 1, false),
            ("3", 3, 3, false),
            ("0..3", 1, 3, true),
            ("2..4", 2, 4, false),
            ("0", 1, 0, true),
        ] {
            let expected = Outputs {
                least,
                most,
                may_filter,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "x", "3..1", "1..", "-1"] {
            let error = text.parse::<Outputs>().unwrap_err();
            assert!(error.contains("as in 0..3"), "{error}");
        }
    }

    #[test]
    fn starts_are_read() {
        assert_eq!("beginning".parse(), Ok(Start::Beginning));
        assert_eq!("committed".parse(), Ok(Start::Committed));
        let offsets = BTreeMap::from([(("a".to_owned(), 0), 5), (("a".to_owned(), 1), 7)]);
        assert_eq!("a:0:5,a:1:7".parse(), Ok(Start::Offsets(offsets)));
        for text in ["", "end", "a:0", "a:0:-1", ":0:1", "a:x:1"] {
            let error = text.parse::<Start>().unwrap_err();
            assert!(error.contains("as in orders:0:1200"), "{error}");
        }
    }
}
