//! Exactly-once stream transformation on Kafka: consume, transform, produce.

pub mod config;
#[allow(dead_code)]
mod identity;
#[doc(hidden)]
pub mod kafka;
#[doc(hidden)]
pub mod planted;
#[doc(hidden)]
pub mod worker;

pub use orchestrator_core as core;
