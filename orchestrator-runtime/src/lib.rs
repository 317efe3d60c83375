//! Exactly-once stream transformation on Kafka: consume, transform, produce.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use orchestrator_runtime::core::{Context, TransformError, json_fn};
//!
//! fn shout(text: String, _cx: &Context<'_>) -> Result<String, TransformError> {
//!     Ok(text.to_uppercase())
//! }
//!
//! # async fn run() -> ExitCode {
//! orchestrator_runtime::main(json_fn(shout)).await
//! # }
//! ```

mod clock;
pub mod config;
pub mod health;
pub mod http;
mod identity;
#[doc(hidden)]
pub mod kafka;
mod kill_points;
pub mod metrics;
mod observe;
mod orchestrator;
#[doc(hidden)]
pub mod planted;
mod program;
pub mod telemetry;
pub mod tracker;
#[doc(hidden)]
pub mod worker;

pub use orchestrator_core as core;

pub use config::Config;
pub use orchestrator::{BuildError, Builder, Drained, Handle, Orchestrator, RunError};
pub use program::main;
pub use tokio_util::sync::CancellationToken;
pub use worker::settings::Counts;

/// The programs of the README are compiled, and its test is run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
