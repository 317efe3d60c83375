//! What an error of librdkafka's means: for the transaction (a [`TxnClass`]) and for an output (a [`Blame`]).
//! Called by the producer, once per failed call or delivery. Pure: it must never call Kafka or wait.
//!
//! The classes come from how librdkafka 2.12 sets its flags: *fatal* ends the producer, *requires abort* ends the
//! transaction, *retriable* lets the same call be repeated; an error without any of them is a bug or unknown.

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::transactor::{TxnClass, TxnError};

/// A call of the transaction API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `init_transactions`
    Init,
    /// `begin_transaction`
    Begin,
    /// Waiting for deliveries.
    Flush,
    /// `send_offsets_to_transaction`
    SendOffsets,
    /// `commit_transaction`
    Commit,
    /// `abort_transaction`
    Abort,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "initialising transactions",
            Self::Begin => "beginning a transaction",
            Self::Flush => "waiting for deliveries",
            Self::SendOffsets => "sending offsets to the transaction",
            Self::Commit => "committing the transaction",
            Self::Abort => "aborting the transaction",
        })
    }
}

/// What librdkafka says of an error beside its code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The producer is of no more use.
    pub fatal: bool,
    /// The transaction must be aborted.
    pub requires_abort: bool,
    /// The same call may be repeated.
    pub retriable: bool,
}

/// What a failed call means.
pub fn class_of(call: Call, code: Code, flags: Flags) -> TxnClass {
    if is_fencing(code) {
        return TxnClass::Fenced;
    }
    if flags.fatal {
        return TxnClass::Fatal;
    }
    if is_membership(code) && matches!(call, Call::SendOffsets | Call::Commit) {
        return TxnClass::Membership;
    }
    if flags.requires_abort {
        return TxnClass::Abort;
    }
    if flags.retriable {
        return TxnClass::Repeat;
    }
    match (call, code) {
        (_, Code::State) => TxnClass::Fatal,
        // Nothing is known of the offsets, so a commit would perhaps go without them.
        (Call::Flush | Call::SendOffsets, _) => TxnClass::Abort,
        _ => TxnClass::Fatal,
    }
}

/// The error of a failed call.
pub fn txn_error(call: Call, error: &KafkaError) -> TxnError {
    let class = match error {
        KafkaError::Transaction(error) => {
            let flags = Flags {
                fatal: error.is_fatal(),
                requires_abort: error.txn_requires_abort(),
                retriable: error.is_retriable(),
            };
            class_of(call, error.code(), flags)
        }
        // A commit that timed out while records were outstanding: it has not begun.
        KafkaError::Flush(code) => class_of(Call::Flush, *code, Flags::default()),
        _ => TxnClass::Fatal,
    };
    TxnError {
        class,
        message: format!("{call} failed: {error}"),
    }
}

/// The error of a producer that has become of no more use, as `rd_kafka_fatal_error` tells it.
pub fn fatal_error(call: Call, code: Code, reason: &str) -> TxnError {
    let flags = Flags {
        fatal: true,
        ..Flags::default()
    };
    TxnError {
        class: class_of(call, code, flags),
        message: format!("{call} failed: {code}: {reason}"),
    }
}

/// Another producer has our transactional id, or the broker has bumped our epoch because a transaction took too long.
fn is_fencing(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch
    )
}

/// The group has moved on since the metadata was taken.
fn is_membership(code: Code) -> bool {
    matches!(
        code,
        Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::FencedInstanceId
            | Code::RebalanceInProgress
            | Code::StaleMemberEpoch
            | Code::FencedMemberEpoch
    )
}

/// Whose fault it is that an output was not taken, by `send` or by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The connection's, the transaction's or a neighbour's: the output may be fine.
    Circumstances,
    /// Its topic's, as that stands now: it is missing, or we may not write to it.
    Topic,
    /// Its own: it will never be taken.
    Output,
    /// Its own, or that of a record in the same batch: the broker refuses batches, and librdkafka (2.12) hands the same
    /// code to all records of one.
    Batch(Flaw),
}

/// What is wrong with a refused batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// One of its records: no key for a compacted topic, a timestamp out of range.
    Record,
    /// Its size.
    Size,
}

impl Blame {
    /// Whether the output (or its topic) is to blame.
    pub fn blames_output(self) -> bool {
        self != Self::Circumstances
    }

    /// Whether trying again could not help.
    pub fn is_permanent(self) -> bool {
        matches!(self, Self::Output | Self::Batch(_))
    }
}

/// Whose fault this code is.
pub fn blame(code: Code) -> Blame {
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            Blame::Batch(Flaw::Size)
        }
        Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::UnsupportedForMessageFormat => Blame::Batch(Flaw::Record),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::TopicAuthorizationFailed => {
            Blame::Topic
        }
        // INVALID_ARG is what `send` says of a topic name it cannot even look up.
        Code::InvalidTopic | Code::InvalidArgument | Code::UnknownPartition => Blame::Output,
        _ => Blame::Circumstances,
    }
}

#[cfg(test)]
mod tests;
