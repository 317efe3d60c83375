//! Failures as they are kept: in the ledger, in dead letters, in health. Plain data, made by the worker.

use crate::error::{FailureClass, Stage, TransformError};
use crate::record::{Record, Topic};

/// A failed try (or tries) of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub class: FailureClass,
    /// The stage it failed in.
    pub stage: Stage,
    /// The name of the error's type.
    pub kind: String,
    /// The error's text.
    pub message: String,
    /// The texts of the error's causes, outermost first.
    pub chain: Vec<String>,
    /// How many tries were made; tries that failed for infrastructure do not count.
    pub attempts: u32,
    /// When it failed first, in milliseconds since 1970.
    pub first_failed_at_ms: i64,
    /// When it failed last, in milliseconds since 1970.
    pub last_failed_at_ms: i64,
}

impl Failure {
    /// The failure that `error` is, at its first attempt.
    pub fn of(error: &TransformError, attempts: u32, now_ms: i64) -> Self {
        Self {
            class: error.class(),
            stage: error.stage(),
            kind: error.kind().to_owned(),
            message: error.to_string(),
            chain: error.chain(),
            attempts,
            first_failed_at_ms: now_ms,
            last_failed_at_ms: now_ms,
        }
    }
}

/// A failure together with the record: what a ledger row and a dead letter are made of.
#[derive(Clone, Debug)]
pub struct FailureRecord {
    /// The record, in a buffer of its own.
    pub record: Record,
    /// The topic its outputs were meant for, if it is configured.
    pub target_topic: Option<Topic>,
    /// Why and how often it failed.
    pub failure: Failure,
    /// Whether a dead letter is written in the transaction that passes it.
    pub dead_lettered: bool,
    /// When its partition was assigned to us, in milliseconds since 1970: what is written by an earlier owner, however
    /// late, never overwrites what a later one has written.
    pub fence: i64,
}
