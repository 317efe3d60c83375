//! Codecs: bytes to values and back, asynchronous so that a schema registry fits in later.
//! `json_fn` and its friends are built on them.

use std::fmt;
use std::future::{Future, ready};
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ResultExt, Stage, TransformError};
use crate::output::{Output, Outputs};
use crate::record::Record;
use crate::transform::{Context, Execution, Transformer};

/// Decodes the values of records. Bytes that are wrong are a permanent failure; a registry that cannot be
/// reached is an infrastructure failure.
pub trait Decoder<T>: Send + Sync + 'static {
    /// The value of `record`.
    fn decode(&self, record: &Record) -> impl Future<Output = Result<T, TransformError>> + Send;
}

/// Encodes values for outputs.
pub trait Encoder<T>: Send + Sync + 'static {
    /// The bytes of `value`.
    fn encode(&self, value: &T) -> impl Future<Output = Result<Bytes, TransformError>> + Send;
}

/// A codec decodes and encodes. `execution` says whether its futures are ready at once.
pub trait Codec: Send + Sync + 'static {
    /// How a transformer that uses it is run.
    fn execution(&self) -> Execution {
        Execution::Async
    }
}

/// JSON by serde. A record without a value is not JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Codec for Json {
    fn execution(&self) -> Execution {
        Execution::Cpu
    }
}

impl<T: DeserializeOwned + Send> Decoder<T> for Json {
    fn decode(&self, record: &Record) -> impl Future<Output = Result<T, TransformError>> + Send {
        ready(match record.value() {
            None => Err(TransformError::permanent("the record has no value")),
            Some(value) => serde_json::from_slice(value).permanent(),
        })
    }
}

impl<T: Serialize + Sync> Encoder<T> for Json {
    fn encode(&self, value: &T) -> impl Future<Output = Result<Bytes, TransformError>> + Send {
        // Most outputs are below half a kilobyte: one allocation, seldom grown.
        let mut bytes = Vec::with_capacity(512);
        ready(
            serde_json::to_writer(&mut bytes, value)
                .permanent()
                .map(|()| Bytes::from(bytes)),
        )
    }
}

/// A transformer of a synchronous function from one JSON value to another.
///
/// Bytes that are not such JSON are a permanent failure. The output inherits the record's key, timestamp and
/// trace context.
pub fn json_fn<In, Out, F>(function: F) -> CodecFn<Json, F, In, Out>
where
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + Send + Sync + 'static,
    F: Fn(In, &Context<'_>) -> Result<Out, TransformError> + Send + Sync + 'static,
{
    codec_fn(Json, function)
}

/// Like [`json_fn`], for a function that returns any number of values: `None`, `Some(value)`, or a `Vec`.
pub fn json_flat_fn<In, Out, Outs, F>(function: F) -> CodecFlatFn<Json, F, In, Outs>
where
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + Send + Sync + 'static,
    Outs: IntoIterator<Item = Out> + Send + 'static,
    Outs::IntoIter: Send,
    F: Fn(In, &Context<'_>) -> Result<Outs, TransformError> + Send + Sync + 'static,
{
    CodecFlatFn {
        codec: Json,
        function,
        types: PhantomData,
    }
}

/// A transformer of a synchronous function between decoded values.
pub fn codec_fn<C, In, Out, F>(codec: C, function: F) -> CodecFn<C, F, In, Out>
where
    C: Codec + Decoder<In> + Encoder<Out>,
    F: Fn(In, &Context<'_>) -> Result<Out, TransformError> + Send + Sync + 'static,
{
    CodecFn {
        codec,
        function,
        types: PhantomData,
    }
}

/// See [`json_fn`] and [`codec_fn`].
pub struct CodecFn<C, F, In, Out> {
    codec: C,
    function: F,
    types: PhantomData<fn(In) -> Out>,
}

impl<C, F, In, Out> Transformer for CodecFn<C, F, In, Out>
where
    C: Codec + Decoder<In> + Encoder<Out>,
    In: Send + 'static,
    Out: Send + Sync + 'static,
    F: Fn(In, &Context<'_>) -> Result<Out, TransformError> + Send + Sync + 'static,
{
    async fn transform(
        &self,
        record: &Record,
        cx: &Context<'_>,
    ) -> Result<Outputs, TransformError> {
        let value = decoded(&self.codec, record).await?;
        let value = (self.function)(value, cx)?;
        Ok(Output::new(encoded(&self.codec, &value).await?).into())
    }

    fn execution(&self) -> Execution {
        self.codec.execution()
    }
}

/// See [`json_flat_fn`].
pub struct CodecFlatFn<C, F, In, Outs> {
    codec: C,
    function: F,
    types: PhantomData<fn(In) -> Outs>,
}

impl<C, F, In, Out, Outs> Transformer for CodecFlatFn<C, F, In, Outs>
where
    C: Codec + Decoder<In> + Encoder<Out>,
    In: Send + 'static,
    Out: Send + Sync + 'static,
    Outs: IntoIterator<Item = Out> + Send + 'static,
    Outs::IntoIter: Send,
    F: Fn(In, &Context<'_>) -> Result<Outs, TransformError> + Send + Sync + 'static,
{
    async fn transform(
        &self,
        record: &Record,
        cx: &Context<'_>,
    ) -> Result<Outputs, TransformError> {
        let value = decoded(&self.codec, record).await?;
        let mut outputs = Outputs::none();
        for value in (self.function)(value, cx)? {
            outputs.push(Output::new(encoded(&self.codec, &value).await?));
        }
        Ok(outputs)
    }

    fn execution(&self) -> Execution {
        self.codec.execution()
    }
}

async fn decoded<T>(codec: &impl Decoder<T>, record: &Record) -> Result<T, TransformError> {
    let value = codec.decode(record).await;
    value.map_err(|error| error.at_stage(Stage::Decode))
}

async fn encoded<T>(codec: &impl Encoder<T>, value: &T) -> Result<Bytes, TransformError> {
    let bytes = codec.encode(value).await;
    bytes.map_err(|error| error.at_stage(Stage::Encode))
}

impl<C: fmt::Debug, F, In, Out> fmt::Debug for CodecFn<C, F, In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CodecFn").field(&self.codec).finish()
    }
}

impl<C: fmt::Debug, F, In, Outs> fmt::Debug for CodecFlatFn<C, F, In, Outs> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CodecFlatFn").field(&self.codec).finish()
    }
}
