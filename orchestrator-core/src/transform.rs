//! The user's surface: the `Transformer` trait and the adapters that make one of a function.
//! The runtime drives it; nothing here touches a clock, a thread or a socket.

use std::fmt;
use std::future::{Future, ready};
use std::time::Instant;

use crate::error::TransformError;
use crate::output::Outputs;
use crate::record::{DedupKey, Record};

/// How the runtime runs a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// Its futures wait for something: up to `ORCH_TRANSFORM_CONCURRENCY` are in flight per worker, each with the
    /// deadline `ORCH_TRANSFORM_TIMEOUT_MS`.
    Async,
    /// Its futures are ready at once and use the CPU: records are spread in chunks over as many threads as there
    /// are cores. One that hangs cannot be cancelled, only detected.
    Cpu,
    /// Its futures are ready at once but block the thread: up to `ORCH_TRANSFORM_CONCURRENCY` threads are used.
    /// One that hangs cannot be cancelled, only detected.
    Blocking,
}

/// Which try of a record this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When the transform is given up (asynchronous ones are dropped then).
    pub deadline: Option<Instant>,
}

impl Attempt {
    /// Attempt `number`, with no deadline.
    pub fn new(number: u32) -> Self {
        Self {
            number,
            deadline: None,
        }
    }

    /// The same attempt with a deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }
}

/// What a transformer may know beside the decoded value.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Context<'a> {
    record: &'a Record,
    attempt: Attempt,
}

impl<'a> Context<'a> {
    /// The context of one try of `record`.
    pub fn new(record: &'a Record, attempt: Attempt) -> Self {
        Self { record, attempt }
    }

    /// The record as it was read: key, headers, position, timestamp.
    pub fn record(&self) -> &'a Record {
        self.record
    }

    /// Which try this is, 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// When this try is given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.attempt.deadline
    }

    /// What duplicates of this record are recognised by, in systems outside Kafka.
    pub fn dedup_key(&self) -> DedupKey {
        self.record.dedup_key()
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("record", self.record)
            .field("attempt", &self.attempt)
            .finish()
    }
}

/// Makes outputs of records.
///
/// A transformer has no Kafka effects of its own, and may see a record again (after a retry, a rebalance or a
/// restart): what it does outside Kafka must bear repetition.
///
/// Cancel safety: the future of an asynchronous transform is dropped when its deadline passes.
pub trait Transformer: Send + Sync + 'static {
    /// The outputs of one record, or why there are none.
    fn transform(
        &self,
        record: &Record,
        cx: &Context<'_>,
    ) -> impl Future<Output = Result<Outputs, TransformError>> + Send;

    /// The outputs of several records of one partition at once, for bulk look-ups: one result a record, in order.
    /// The default, `None`, has them transformed one by one. So does a panic, a passed deadline, or an answer of
    /// the wrong length. Only used with [`Execution::Async`].
    fn transform_batch(
        &self,
        _records: &[Record],
        _attempt: Attempt,
    ) -> impl Future<Output = Option<Vec<Result<Outputs, TransformError>>>> + Send {
        ready(None)
    }

    /// Called once before the first record; an error ends the run before anything is read.
    fn open(&self) -> impl Future<Output = Result<(), TransformError>> + Send {
        ready(Ok(()))
    }

    /// Called once after the last record of a drained run.
    fn close(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// How to run it.
    fn execution(&self) -> Execution {
        Execution::Async
    }
}

/// A transformer of a synchronous function that uses the CPU; see [`Execution::Cpu`].
///
/// ```
/// use orchestrator_core::{transform_fn, Output, Record, Context, TransformError};
/// let upper = transform_fn(|record: &Record, _cx: &Context<'_>| {
///     let value = record.value().ok_or(TransformError::permanent("no value"))?;
///     Ok(Output::new(value.to_ascii_uppercase()))
/// });
/// # let _: &dyn Fn(()) = &|_| { let _ = &upper; };
/// ```
pub fn transform_fn<F, O>(function: F) -> SyncFn<F>
where
    F: Fn(&Record, &Context<'_>) -> Result<O, TransformError> + Send + Sync + 'static,
    O: Into<Outputs>,
{
    SyncFn {
        function,
        execution: Execution::Cpu,
    }
}

/// A transformer of a synchronous function that blocks its thread; see [`Execution::Blocking`].
pub fn transform_blocking_fn<F, O>(function: F) -> SyncFn<F>
where
    F: Fn(&Record, &Context<'_>) -> Result<O, TransformError> + Send + Sync + 'static,
    O: Into<Outputs>,
{
    SyncFn {
        function,
        execution: Execution::Blocking,
    }
}

/// See [`transform_fn`] and [`transform_blocking_fn`].
pub struct SyncFn<F> {
    function: F,
    execution: Execution,
}

impl<F, O> Transformer for SyncFn<F>
where
    F: Fn(&Record, &Context<'_>) -> Result<O, TransformError> + Send + Sync + 'static,
    O: Into<Outputs>,
{
    fn transform(
        &self,
        record: &Record,
        cx: &Context<'_>,
    ) -> impl Future<Output = Result<Outputs, TransformError>> + Send {
        ready((self.function)(record, cx).map(Into::into))
    }

    fn execution(&self) -> Execution {
        self.execution
    }
}

impl<F> fmt::Debug for SyncFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncFn")
            .field("execution", &self.execution)
            .finish_non_exhaustive()
    }
}

/// A transformer of an asynchronous function, which takes the record by value (a cheap clone).
pub fn transform_async_fn<F, Fut, O>(function: F) -> AsyncFn<F>
where
    F: Fn(Record, Attempt) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, TransformError>> + Send,
    O: Into<Outputs>,
{
    AsyncFn { function }
}

/// See [`transform_async_fn`].
pub struct AsyncFn<F> {
    function: F,
}

impl<F, Fut, O> Transformer for AsyncFn<F>
where
    F: Fn(Record, Attempt) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, TransformError>> + Send,
    O: Into<Outputs>,
{
    async fn transform(
        &self,
        record: &Record,
        cx: &Context<'_>,
    ) -> Result<Outputs, TransformError> {
        (self.function)(record.clone(), cx.attempt)
            .await
            .map(Into::into)
    }
}

impl<F> fmt::Debug for AsyncFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncFn").finish_non_exhaustive()
    }
}
