//! Tests of a transformer without Kafka, by the decisions and retries of the runtime.
//!
//! ```
//! use orchestrator_core::testing::{self, Outcome};
//! use orchestrator_core::{Context, HoldReason, Policy, Record, TransformError, json_fn};
//!
//! fn double(n: u64, cx: &Context<'_>) -> Result<u64, TransformError> {
//!     match n {
//!         0 => Err(TransformError::permanent("nothing to double")),
//!         1 if cx.attempt() < 3 => Err(TransformError::transient("not yet")),
//!         _ => Ok(2 * n),
//!     }
//! }
//!
//! let records = ["7", "1", "0", "8"];
//! let records = records.iter().zip(0..).map(|(value, n)| Record::builder("numbers", 0, n).value(*value).build());
//! let records: Vec<Record> = records.collect();
//!
//! // ATOMIC, the runtime's default: poison holds its partition, and nothing passes it.
//! let tested = testing::run(&json_fn(double), records.clone());
//! assert_eq!(tested[0].value(), Some(b"14".as_slice()));
//! assert_eq!((tested[1].attempts, tested[1].value()), (3, Some(b"2".as_slice())));
//! assert!(matches!(tested[2].outcome, Outcome::Held { reason: HoldReason::Poison, .. }));
//! assert!(matches!(tested[3].outcome, Outcome::Behind { offset: 2 }));
//!
//! // SKIP_AND_LOG: it is recorded, and passed.
//! let tested = testing::Trial::of(Policy::skip_and_log()).run(&json_fn(double), records);
//! assert!(matches!(tested[2].outcome, Outcome::Passed { dead_letter: false, .. }));
//! assert_eq!(tested[3].value(), Some(b"16".as_slice()));
//! ```
//!
//! What is the same as in the runtime: the counting of tries, [`decide`](crate::decide), back-offs (of which the longest
//! is taken instead of a random one), the skip brake, order within a partition, panics caught, `open` and `close`, and
//! that an output must fit into its topic. Time is virtual: no back-off is slept. What is not there: topics that are
//! missing, `ORCH_MAX_OUTPUTS_PER_RECORD`, the deadline `ORCH_TRANSFORM_TIMEOUT_MS`, concurrency, and any Kafka.
//!
//! Called by users' tests; it judges nothing by itself.

mod bench;
mod drive;

use std::time::Duration;

use crate::failure::Failure;
use crate::hold::HoldReason;
use crate::mode::Policy;
use crate::output::Outputs;
use crate::record::Record;
use crate::transform::Transformer;

use bench::Bench;

/// What became of a record.
#[derive(Clone, Debug)]
pub struct Tested {
    /// The record.
    pub record: Record,
    /// How often it was tried, as `ORCH_MAX_ATTEMPTS` counts: tries that failed for infrastructure do not.
    pub attempts: u32,
    /// How long it waited between tries, in virtual time.
    pub waited: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a record.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Its outputs are committed, together with its offset.
    Outputs(Outputs),
    /// It failed, is recorded, and its offset is committed.
    Passed {
        /// Why and how often it failed.
        failure: Failure,
        /// Whether a dead letter is written in the same transaction.
        dead_letter: bool,
    },
    /// Its partition is held at it: nothing of it is committed from here on.
    Held {
        /// Why.
        reason: HoldReason,
        /// Why and how often it failed.
        failure: Failure,
    },
    /// It waits behind a held record of its partition; what it becomes is not committed.
    Behind {
        /// The held record's offset.
        offset: i64,
    },
    /// It ends the run with exit code 3 (`ORCH_ATOMIC_ON_POISON=STOP`).
    Stopped {
        /// Why and how often it failed.
        failure: Failure,
    },
}

impl Tested {
    /// The outputs, if they are committed.
    pub fn outputs(&self) -> Option<&Outputs> {
        match &self.outcome {
            Outcome::Outputs(outputs) => Some(outputs),
            _ => None,
        }
    }

    /// The value of its one output, if there is exactly one.
    pub fn value(&self) -> Option<&[u8]> {
        match self.outputs()?.as_slice() {
            [output] => output.value(),
            _ => None,
        }
    }

    /// Its failure, if it failed for good or is held.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.outcome {
            Outcome::Passed { failure, .. }
            | Outcome::Held { failure, .. }
            | Outcome::Stopped { failure } => Some(failure),
            Outcome::Outputs(_) | Outcome::Behind { .. } => None,
        }
    }
}

/// Runs records through a transformer in ATOMIC with the runtime's defaults; see [`Trial::run`].
pub fn run<T: Transformer>(
    transformer: &T,
    records: impl IntoIterator<Item = Record>,
) -> Vec<Tested> {
    Trial::of(Policy::atomic()).run(transformer, records)
}

/// How a transformer is tested.
#[derive(Clone, Debug)]
pub struct Trial {
    policy: Policy,
    patience: Duration,
    max_message_bytes: usize,
}

/// Kafka's default.
const MAX_MESSAGE_BYTES: usize = 1_048_588;

impl Trial {
    /// By this policy: [`Policy::atomic`], [`Policy::skip_and_log`], or one of these with other settings.
    pub fn of(policy: Policy) -> Self {
        Self {
            policy,
            patience: Duration::from_secs(60),
            max_message_bytes: MAX_MESSAGE_BYTES,
        }
    }

    /// How much virtual time passes at the most; what waits then is held. A minute unless set, time enough for a
    /// transformer whose infrastructure comes back.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The `max.message.bytes` of all topics; Kafka's default, 1 MiB and 12 bytes, unless set. An output that does not
    /// fit is its record's permanent failure.
    #[must_use]
    pub fn max_message_bytes(mut self, max_message_bytes: usize) -> Self {
        self.max_message_bytes = max_message_bytes;
        self
    }

    /// What becomes of each record, in the order given. Blocks the thread while the transformer waits for something;
    /// one that needs an asynchronous runtime (its timers, its sockets) is for [`run_async`](Self::run_async).
    ///
    /// # Panics
    /// If the transformer does not open, or the offsets of a partition do not grow.
    pub fn run<T: Transformer>(
        &self,
        transformer: &T,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<Tested> {
        drive::block_on(self.run_async(transformer, records))
    }

    /// The same, to be awaited in the runtime that the transformer needs, by `#[tokio::test]` say.
    ///
    /// # Panics
    /// If the transformer does not open, or the offsets of a partition do not grow.
    pub async fn run_async<T: Transformer>(
        &self,
        transformer: &T,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<Tested> {
        let records: Vec<Record> = records.into_iter().collect();
        if let Err(error) = transformer.open().await {
            panic!("the transformer could not be opened: {error}");
        }
        let mut bench = Bench::new(&self.policy, self.max_message_bytes, &records);
        bench.run(transformer, &records, self.patience).await;
        transformer.close().await;
        let tested = records.into_iter().map(|record| bench.tested(record));
        tested.collect()
    }
}

#[cfg(test)]
mod tests;
