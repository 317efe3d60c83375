//! Where a dead letter says that its record was: the headers of KIP-1034, as documented, written out here a second time.

use super::Seen;

const TOPIC: &str = "__streams.errors.topic";
const PARTITION: &str = "__streams.errors.partition";
const OFFSET: &str = "__streams.errors.offset";
const GROUP: &str = "orchestrator.consumer_group";

/// The record that a dead letter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Who failed to process it, if it says so: a queue may serve several groups.
    pub(super) group: Option<&'a str>,
}

impl<'a> Origin<'a> {
    pub(super) fn of(letter: &Seen<'a>) -> Option<Self> {
        let text = |name| std::str::from_utf8(letter.header(name)?).ok();
        Some(Self {
            topic: text(TOPIC)?,
            partition: text(PARTITION)?.parse().ok()?,
            offset: text(OFFSET)?.parse().ok()?,
            group: text(GROUP),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin<'a>(headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Option<Origin<'a>> {
        Origin::of(&Seen {
            topic: "dlq",
            partition: 0,
            offset: 0,
            key: None,
            value: None,
            headers,
        })
    }

    #[test]
    fn the_last_trip_counts() {
        let topic = (TOPIC, Some(&b"orders"[..]));
        let partition = (PARTITION, Some(&b"3"[..]));
        let earlier = (OFFSET, Some(&b"7"[..]));
        let last = (OFFSET, Some(&b"12"[..]));
        let expected = Origin {
            topic: "orders",
            partition: 3,
            offset: 12,
            group: None,
        };
        assert_eq!(origin(&[topic, earlier, partition, last]), Some(expected));
    }

    #[test]
    fn one_that_says_nothing_has_none() {
        let topic = (TOPIC, Some(&b"orders"[..]));
        let partition = (PARTITION, Some(&b"3"[..]));
        assert_eq!(origin(&[topic, partition]), None);
        assert_eq!(origin(&[topic, partition, (OFFSET, None)]), None);
        assert_eq!(origin(&[topic, partition, (OFFSET, Some(b"x"))]), None);
    }
}
