//! Exactly-once stream transformation on Kafka: consume, transform, produce.

#[doc(hidden)]
pub mod kafka;
#[doc(hidden)]
pub mod planted;

pub use orchestrator_core as core;
