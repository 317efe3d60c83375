//! The ways in which a consume-transform-produce program can break its promise, each with a sentence for people and a
//! label for metrics.

/// What kind of violation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Its offset is committed, and nothing came of the record.
    Lost,
    /// Its offset is committed, and some of the record's outputs are missing.
    Half,
    /// More outputs than a record has, or more than one dead letter.
    Doubled,
    /// After a later record of its source partition.
    OutOfOrder,
    /// Visible although the offset of its record is not committed.
    Beyond,
    /// Visible only after its record had been accounted for.
    Late,
    /// No record of the source has this identity.
    Stranger,
    /// An output that has no identity.
    Unnamed,
    /// A record both came out and failed.
    Both,
    /// Recorded in the ledger, but not dead-lettered.
    OnlyInLedger,
    /// A dead letter that does not say where its record was.
    BadLetter,
    /// A transaction that does not end.
    OpenTransaction,
    /// The committed offset is no offset of the source.
    Outside,
    /// The program counted something else.
    Metrics,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Lost,
        Self::Half,
        Self::Doubled,
        Self::OutOfOrder,
        Self::Beyond,
        Self::Late,
        Self::Stranger,
        Self::Unnamed,
        Self::Both,
        Self::OnlyInLedger,
        Self::BadLetter,
        Self::OpenTransaction,
        Self::Outside,
        Self::Metrics,
    ];

    /// As the label `kind` of `orch_audit_violations_total`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Half => "half",
            Self::Doubled => "doubled",
            Self::OutOfOrder => "out_of_order",
            Self::Beyond => "beyond",
            Self::Late => "late",
            Self::Stranger => "stranger",
            Self::Unnamed => "unnamed",
            Self::Both => "both",
            Self::OnlyInLedger => "only_in_ledger",
            Self::BadLetter => "bad_letter",
            Self::OpenTransaction => "open_transaction",
            Self::Outside => "outside",
            Self::Metrics => "metrics",
        }
    }

    /// In words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Lost => "a record was passed and nothing came of it",
            Self::Half => "a record was passed and only some of its outputs are visible",
            Self::Doubled => "an output or a dead letter is there more often than it may be",
            Self::OutOfOrder => "a record came out after a later one of its partition",
            Self::Beyond => "a record came out although its offset is not committed",
            Self::Late => "a record came out after it had been accounted for",
            Self::Stranger => "an output or a dead letter of a record that nobody sent",
            Self::Unnamed => "an output without the identity that it was to have",
            Self::Both => "a record came out and failed as well",
            Self::OnlyInLedger => "a failure is in the ledger but not in the dead-letter queue",
            Self::BadLetter => "a dead letter that does not say where its record was",
            Self::OpenTransaction => "a transaction is left open",
            Self::Outside => "the committed offset lies beyond the end of the source",
            Self::Metrics => "the program's metrics differ from what is there",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_kinds_are_told_alike() {
        let labels: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.label()).collect();
        let words: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.what()).collect();
        assert_eq!((labels.len(), words.len()), (14, 14));
    }
}
