//! Integration tests of the runtime, on a real Kafka.
#![allow(clippy::unwrap_used, missing_docs)]

mod producer;
