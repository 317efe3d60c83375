//! The error tables, line by line.

use super::*;

const NONE: Flags = Flags {
    fatal: false,
    requires_abort: false,
    retriable: false,
};
const F: Flags = Flags {
    fatal: true,
    ..NONE
};
const A: Flags = Flags {
    requires_abort: true,
    ..NONE
};
const R: Flags = Flags {
    retriable: true,
    ..NONE
};
const CALLS: [Call; 6] = [
    Call::Init,
    Call::Begin,
    Call::Flush,
    Call::SendOffsets,
    Call::Commit,
    Call::Abort,
];

#[track_caller]
fn check(call: Call, code: Code, flags: Flags, class: TxnClass) {
    assert_eq!(
        class_of(call, code, flags),
        class,
        "{call:?} {code:?} {flags:?}"
    );
}

#[test]
fn what_each_call_may_meet() {
    use TxnClass::{Abort, Fatal, Fenced, Membership, Repeat};
    for call in CALLS {
        check(call, Code::Fenced, F, Fenced);
        check(call, Code::ProducerFenced, F, Fenced);
        check(call, Code::InvalidProducerEpoch, F, Fenced);
        check(call, Code::InvalidTransactionalState, F, Fatal);
        check(call, Code::TransactionalIdAuthorizationFailed, F, Fatal);
        check(call, Code::Inconsistent, F, Fatal);
        check(call, Code::State, NONE, Fatal);
        check(call, Code::OutOfOrderSequenceNumber, A, Abort);
        check(call, Code::OperationTimedOut, R, Repeat);
        check(call, Code::Conflict, R, Repeat);
        // Abort weighs more than repeat.
        check(
            call,
            Code::OperationTimedOut,
            Flags {
                retriable: true,
                ..A
            },
            Abort,
        );
    }
    for moved_on in [
        Code::IllegalGeneration,
        Code::UnknownMemberId,
        Code::FencedInstanceId,
        Code::StaleMemberEpoch,
        Code::FencedMemberEpoch,
        Code::RebalanceInProgress,
    ] {
        check(Call::SendOffsets, moved_on, A, Membership);
        check(Call::Commit, moved_on, A, Membership);
        check(Call::Abort, moved_on, A, Abort);
    }
    check(Call::Flush, Code::OperationTimedOut, NONE, Abort);
    check(Call::Commit, Code::MessageSizeTooLarge, A, Abort);
    check(Call::Commit, Code::MessageTimedOut, A, Abort);
    check(Call::Commit, Code::Unknown, NONE, Fatal);
    check(Call::Init, Code::Resolve, R, Repeat);
}

#[test]
fn no_error_of_send_offsets_lets_a_commit_go_on() {
    for code in [
        Code::OperationTimedOut,
        Code::BrokerTransportFailure,
        Code::State,
        Code::InvalidArgument,
        Code::Unknown,
        Code::GroupAuthorizationFailed,
        Code::IllegalGeneration,
        Code::ConcurrentTransactions,
    ] {
        for flags in [NONE, A, F] {
            assert_ne!(class_of(Call::SendOffsets, code, flags), TxnClass::Repeat);
        }
    }
    // Of no flag and no known code, too, nothing is known of the offsets.
    check(Call::SendOffsets, Code::Unknown, NONE, TxnClass::Abort);
}

#[test]
fn a_commit_that_could_not_flush_is_aborted() {
    let error = txn_error(Call::Commit, &KafkaError::Flush(Code::OperationTimedOut));
    assert_eq!(error.class, TxnClass::Abort);
    assert!(error.message.contains("committing"), "{error}");
    let error = txn_error(Call::Begin, &KafkaError::Canceled);
    assert_eq!(error.class, TxnClass::Fatal);
}

#[test]
fn a_fatal_error_seen_while_waiting_tells_a_twin_from_the_rest() {
    let error = fatal_error(Call::Flush, Code::Fenced, "newer instance");
    assert_eq!(error.class, TxnClass::Fenced);
    let error = fatal_error(Call::Flush, Code::InvalidTransactionalState, "lost");
    assert_eq!(error.class, TxnClass::Fatal);
}

#[test]
fn who_is_to_blame_for_an_output_that_is_not_taken() {
    for (code, expected) in [
        (Code::MessageSizeTooLarge, Blame::Batch(Flaw::Size)),
        (Code::MessageBatchTooLarge, Blame::Batch(Flaw::Size)),
        (Code::UnknownTopic, Blame::Topic),
        (Code::UnknownTopicOrPartition, Blame::Topic),
        (Code::TopicAuthorizationFailed, Blame::Topic),
        (Code::InvalidTopic, Blame::Output),
        (Code::UnknownPartition, Blame::Output),
        (Code::InvalidTimestamp, Blame::Batch(Flaw::Record)),
        (Code::InvalidRecord, Blame::Batch(Flaw::Record)),
        (Code::PolicyViolation, Blame::Batch(Flaw::Record)),
        (Code::InvalidArgument, Blame::Output),
        // It was in a batch with the one to blame.
        (Code::InvalidDifferentRecord, Blame::Circumstances),
        (Code::PurgeQueue, Blame::Circumstances),
        (Code::PurgeInflight, Blame::Circumstances),
        (Code::MessageTimedOut, Blame::Circumstances),
        (Code::OutOfOrderSequenceNumber, Blame::Circumstances),
        (Code::QueueFull, Blame::Circumstances),
        (Code::State, Blame::Circumstances),
        (Code::Fatal, Blame::Circumstances),
        (Code::NotEnoughReplicas, Blame::Circumstances),
        (Code::ClusterAuthorizationFailed, Blame::Circumstances),
    ] {
        assert_eq!(blame(code), expected, "{code:?}");
    }
}
