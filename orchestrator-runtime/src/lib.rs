//! Exactly-once stream transformation on Kafka: consume, transform, produce.

pub mod config;
pub mod health;
pub mod http;
#[allow(dead_code)]
mod identity;
#[doc(hidden)]
pub mod kafka;
pub mod metrics;
#[doc(hidden)]
pub mod planted;
pub mod telemetry;
#[doc(hidden)]
pub mod worker;

pub use orchestrator_core as core;
