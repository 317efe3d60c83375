//! Codecs: bytes to values and back, asynchronous so that a schema registry fits in later. `codec_fn` and its friends
//! are built on them; `json_fn` waits for nothing and is a plain function of a record.

use std::cell::RefCell;
use std::future::{Future, ready};
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ResultExt, Stage, TransformError};
use crate::output::{Output, Outputs};
use crate::record::Record;
use crate::transform::{Context, Execution, Transformer, transform_fn};

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
        ready(from_json(record))
    }
}

impl<T: Serialize + Sync> Encoder<T> for Json {
    fn encode(&self, value: &T) -> impl Future<Output = Result<Bytes, TransformError>> + Send {
        ready(to_json(value))
    }
}

fn from_json<T: DeserializeOwned>(record: &Record) -> Result<T, TransformError> {
    match record.value() {
        None => Err(TransformError::permanent("the record has no value")),
        Some(value) => serde_json::from_slice(value).permanent(),
    }
    .map_err(|error| error.at_stage(Stage::Decode))
}

thread_local! {
    /// What is being written: it grows once, and outputs take just what they need.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A scratch buffer that one large output has blown up beyond this is given back.
const SCRATCH_KEPT: usize = 64 * 1024;

fn to_json<T: Serialize>(value: &T) -> Result<Bytes, TransformError> {
    // Taken, not borrowed: a `Serialize` of the user's may come back here.
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let written = serde_json::to_writer(&mut scratch, value).permanent();
    let bytes = written.map(|()| Bytes::copy_from_slice(&scratch));
    if scratch.capacity() <= SCRATCH_KEPT {
        SCRATCH.set(scratch);
    }
    bytes.map_err(|error| error.at_stage(Stage::Encode))
}

/// A transformer of a synchronous function from one JSON value to another.
///
/// Bytes that are not such JSON are a permanent failure. The output inherits the record's key, timestamp and
/// trace context.
pub fn json_fn<In, Out, F>(function: F) -> impl Transformer
where
    In: DeserializeOwned + 'static,
    Out: Serialize + 'static,
    F: Fn(In, &Context<'_>) -> Result<Out, TransformError> + Send + Sync + 'static,
{
    transform_fn(move |record: &Record, cx: &Context<'_>| {
        let value = function(from_json(record)?, cx)?;
        Ok(Output::new(to_json(&value)?))
    })
}

/// Like [`json_fn`], for a function that returns any number of values: `None`, `Some(value)`, or a `Vec`.
pub fn json_flat_fn<In, Out, Outs, F>(function: F) -> impl Transformer
where
    In: DeserializeOwned + 'static,
    Out: Serialize + 'static,
    Outs: IntoIterator<Item = Out> + 'static,
    F: Fn(In, &Context<'_>) -> Result<Outs, TransformError> + Send + Sync + 'static,
{
    transform_fn(move |record: &Record, cx: &Context<'_>| {
        let mut outputs = Outputs::none();
        for value in function(from_json(record)?, cx)? {
            outputs.push(Output::new(to_json(&value)?));
        }
        Ok(outputs)
    })
}

/// A transformer of a synchronous function between decoded values.
pub fn codec_fn<C, In, Out, F>(codec: C, function: F) -> impl Transformer
where
    C: Codec + Decoder<In> + Encoder<Out>,
    In: Send + 'static,
    Out: Send + Sync + 'static,
    F: Fn(In, &Context<'_>) -> Result<Out, TransformError> + Send + Sync + 'static,
{
    codec_flat_fn(codec, move |value: In, cx: &Context<'_>| {
        function(value, cx).map(Some)
    })
}

/// Like [`codec_fn`], for a function that returns any number of values.
pub fn codec_flat_fn<C, In, Out, Outs, F>(codec: C, function: F) -> impl Transformer
where
    C: Codec + Decoder<In> + Encoder<Out>,
    In: Send + 'static,
    Out: Send + Sync + 'static,
    Outs: IntoIterator<Item = Out> + Send + 'static,
    Outs::IntoIter: Send,
    F: Fn(In, &Context<'_>) -> Result<Outs, TransformError> + Send + Sync + 'static,
{
    CodecFn {
        codec,
        function,
        types: PhantomData,
    }
}

struct CodecFn<C, F, In, Outs> {
    codec: C,
    function: F,
    types: PhantomData<fn(In) -> Outs>,
}

impl<C, F, In, Out, Outs> Transformer for CodecFn<C, F, In, Outs>
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::pin::pin;
    use std::task::{Poll, Waker};

    use super::*;
    use crate::error::FailureClass;
    use crate::transform::Attempt;

    fn transform(
        transformer: &impl Transformer,
        record: &Record,
    ) -> Result<Outputs, TransformError> {
        let cx = Context::new(record, Attempt::new(1));
        let mut context = std::task::Context::from_waker(Waker::noop());
        match pin!(transformer.transform(record, &cx)).poll(&mut context) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("JSON waits for nothing"),
        }
    }

    fn record(value: &str) -> Record {
        Record::builder("in", 0, 0).value(value).build()
    }

    fn values(outputs: &Outputs) -> Vec<&[u8]> {
        outputs
            .as_slice()
            .iter()
            .filter_map(Output::value)
            .collect()
    }

    #[test]
    fn json_goes_in_and_comes_out() {
        let double = |n: u32, _: &Context<'_>| Ok(n * 2);
        let by_hand = json_fn(double);
        let by_codec = codec_fn(Json, double);
        assert_eq!(
            values(&transform(&by_hand, &record("21")).unwrap()),
            [b"42"]
        );
        assert_eq!(
            values(&transform(&by_codec, &record("21")).unwrap()),
            [b"42"]
        );
    }

    #[test]
    fn a_function_may_give_many_values_or_none() {
        let up_to = |n: u32, _: &Context<'_>| Ok(0..n);
        let by_hand = json_flat_fn(up_to);
        assert_eq!(
            values(&transform(&by_hand, &record("2")).unwrap()),
            [b"0", b"1"]
        );
        assert!(transform(&by_hand, &record("0")).unwrap().is_empty());
        let by_codec = codec_flat_fn(Json, up_to);
        assert_eq!(values(&transform(&by_codec, &record("1")).unwrap()), [b"0"]);
    }

    #[test]
    fn what_is_no_such_json_is_a_permanent_failure_of_decoding() {
        let same = json_fn(|n: u32, _: &Context<'_>| Ok(n));
        let tombstone = Record::builder("in", 0, 0).build();
        for record in [record("no"), record("-1"), tombstone] {
            let error = transform(&same, &record).unwrap_err();
            assert_eq!(
                (error.class(), error.stage()),
                (FailureClass::Permanent, Stage::Decode)
            );
        }
    }

    /// A value that is serialized by way of JSON text, as some are.
    struct Nested;

    impl Serialize for Nested {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let inner = to_json(&[1, 2]).unwrap();
            serializer.serialize_str(std::str::from_utf8(&inner).unwrap())
        }
    }

    #[test]
    fn serializing_may_serialize() {
        assert_eq!(&to_json(&(1, Nested)).unwrap()[..], br#"[1,"[1,2]"]"#);
    }
}
