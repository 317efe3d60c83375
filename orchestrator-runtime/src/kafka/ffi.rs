//! The calls of librdkafka that rdkafka does not offer. Called by the producer. The only file with `unsafe`; it must
//! hold no logic.
#![allow(unsafe_code)]

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;

/// Waits until a producer has no record outstanding: each is acknowledged, or its failure has been handed to the
/// delivery callback. Until then nothing lingers. rdkafka's own `flush` polls in slices instead of waiting for the
/// last acknowledgement, which costs up to 100 ms. Somebody else must poll the producer meanwhile.
pub(crate) fn flush<C: ClientContext>(
    client: &Client<C>,
    timeout: Duration,
) -> Result<(), RDKafkaErrorCode> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the handle is valid for as long as `client` is borrowed, and librdkafka's handles may be used from any
    // thread at once.
    let code = unsafe { bindings::rd_kafka_flush(client.native_ptr(), timeout_ms) };
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(code),
    }
}
