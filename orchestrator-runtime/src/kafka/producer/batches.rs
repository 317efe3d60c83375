//! How large the batches of the next producer instance are. Asked by the producer. Pure: it must never call Kafka.
//!
//! The broker refuses batches, not records, so one bad record takes the blameless down with it. Who is to blame shows
//! when records are sent one by one, which is slow: only until a commit has gone through.

use super::super::classify::Flaw;

/// One record a batch, whatever its size.
const ONE_BY_ONE: usize = 1;

#[derive(Debug)]
pub(super) struct Batches {
    /// The largest that is wanted; less once the topics turned out to take less than they say.
    largest: usize,
    refused: Option<(Flaw, usize)>,
    one_by_one: bool,
}

impl Batches {
    pub(super) fn new(largest: usize) -> Self {
        Self {
            largest: largest.max(ONE_BY_ONE),
            refused: None,
            one_by_one: false,
        }
    }

    /// A batch of no more than `size` bytes was refused, and it is not known which of its records is to blame.
    pub(super) fn refused(&mut self, flaw: Flaw, size: usize) {
        self.refused = Some((flaw, size));
    }

    /// Whether what is known of the topics' limit is in doubt.
    pub(super) fn doubt_limit(&self) -> bool {
        matches!(self.refused, Some((Flaw::Size, _)))
    }

    /// The size for the next instance, given the smallest limit of the topics.
    pub(super) fn next(&mut self, limit: Option<usize>) -> usize {
        let fits = limit
            .map_or(self.largest, |limit| self.largest.min(limit))
            .max(ONE_BY_ONE);
        match self.refused.take() {
            // The limit was lowered since: that explains it.
            Some((Flaw::Size, refused)) if fits < refused => {}
            Some((Flaw::Size, refused)) => {
                self.largest = (refused / 2).max(ONE_BY_ONE);
                self.one_by_one = true;
                tracing::warn!(
                    refused,
                    next = self.largest,
                    "a topic takes smaller batches than could be read from its max.message.bytes: allow \
                     DescribeConfigs on it, or set ORCH_KAFKA_PRODUCER_BATCH_SIZE below its max.message.bytes"
                );
            }
            Some((Flaw::Record, _)) => self.one_by_one = true,
            None => {}
        }
        if self.one_by_one { ONE_BY_ONE } else { fits }
    }

    /// A transaction was committed: all to blame have been found.
    pub(super) fn committed(&mut self) {
        self.one_by_one = false;
    }

    /// Whether an instance of that size is to be replaced by one that sends more at once.
    pub(super) fn could_be_larger(&self, size: usize) -> bool {
        size == ONE_BY_ONE && self.largest > ONE_BY_ONE && !self.one_by_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_large_as_told_and_as_topics_take() {
        assert_eq!(Batches::new(1_000).next(None), 1_000);
        assert_eq!(Batches::new(1_000).next(Some(5_000)), 1_000);
        assert_eq!(Batches::new(1_000).next(Some(600)), 600);
        assert_eq!(Batches::new(0).next(Some(0)), 1);
    }

    #[test]
    fn a_bad_record_is_found_one_by_one() {
        let mut batches = Batches::new(1_000);
        batches.refused(Flaw::Record, 1_000);
        assert!(!batches.doubt_limit());
        assert_eq!(batches.next(None), 1);
        // The one that found it is replaced, and there may be more.
        assert_eq!(batches.next(None), 1);
        assert!(!batches.could_be_larger(1));
        batches.committed();
        assert!(batches.could_be_larger(1));
        assert_eq!(batches.next(None), 1_000);
        assert!(!batches.could_be_larger(1_000));
    }

    #[test]
    fn a_lowered_limit_explains_a_refused_batch() {
        let mut batches = Batches::new(1_000);
        assert_eq!(batches.next(Some(800)), 800);
        batches.refused(Flaw::Size, 800);
        assert!(batches.doubt_limit());
        assert_eq!(batches.next(Some(500)), 500);
        assert!(!batches.doubt_limit());
    }

    #[test]
    fn an_unknown_limit_is_closed_in_on() {
        let mut batches = Batches::new(1_000);
        let mut size = batches.next(None);
        while size > 100 {
            batches.refused(Flaw::Size, size);
            assert_eq!(batches.next(None), 1);
            batches.committed();
            size = batches.next(None);
        }
        assert_eq!(size, 62);
    }
}
