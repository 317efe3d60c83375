//! The domain of exactly-once stream transformation: records, transformers, failure modes, held partitions,
//! and the decisions about them.
//!
//! This crate does no I/O and knows no clock: time is a parameter. Its `Cargo.toml` is the proof. The crate
//! `orchestrator-runtime` brings these decisions to Kafka.

pub mod breaker;
pub mod codec;
pub mod dead_letter;
pub mod error;
pub mod failure;
pub mod hold;
pub mod judge;
pub mod lane;
pub mod ledger_row;
pub mod limits;
pub mod mode;
pub mod output;
pub mod ports;
pub mod quarantine;
pub mod record;
pub mod retry;
pub mod testing;
mod text;
pub mod tracker;
pub mod transform;

pub use codec::{Codec, Decoder, Encoder, Json, codec_flat_fn, codec_fn, json_flat_fn, json_fn};
pub use error::{FailureClass, ResultExt, Stage, TransformError};
pub use failure::{Failure, FailureRecord};
pub use hold::HoldReason;
pub use mode::{AtomicOnPoison, FailureMode, Policy, Tries, Verdict, decide};
pub use output::{Output, OutputHeader, Outputs};
pub use record::{
    DedupKey, Headers, Record, RecordBuffer, RecordBuilder, SourcePartition, SourcePosition, Topic,
};
pub use retry::Backoff;
pub use tracker::{
    BoxFuture, FailureStore, FailureTracker, LedgerIdentity, OffsetRange, Passed, Provisional,
    ReceivedPage, ReceivedRow, Settlement, StoreError, StoreErrorClass, StoreFuture, Taken,
    TrackerError,
};
pub use transform::{
    Attempt, Context, Execution, Transformer, transform_async_fn, transform_blocking_fn,
    transform_fn,
};
