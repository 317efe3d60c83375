//! Skeleton.

pub mod health;
pub mod http;
pub mod metrics;
pub mod telemetry;
