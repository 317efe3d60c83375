//! Logs: JSON in ECS shape or text for people, with the dedup key of the record at hand on every line. The worker
//! marks which record is being handled (`record.rs`), the Kafka contexts hand in librdkafka's lines (`kafka.rs`);
//! `init_logging` is for `main` only, as it sets up the whole process.

mod ecs;
mod kafka;
mod record;
mod text;

use std::io::{IsTerminal, stdout};
use std::panic::{self, PanicHookInfo};
use std::{backtrace, env};

use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

pub use kafka::{kafka_log, scrub};
pub use record::{InBatch, InRecord, dedup_key, in_batch, in_record, with_record};

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// `RUST_LOG` does not parse.
    #[error("RUST_LOG={given}: {why}; for example RUST_LOG=info,orchestrator_runtime=debug")]
    Filter {
        /// What it says.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// The process has a subscriber.
    #[error("a tracing subscriber is already installed in this process; use that one: {0}")]
    AlreadyInstalled(String),
}

/// Sets up logging to stdout for the whole process, panics and lines of the `log` crate included. `RUST_LOG` chooses
/// what is written (default `info`), `OTEL_SERVICE_NAME` what the service is called (default: the program's name).
///
/// # Errors
/// When `RUST_LOG` does not parse, or somebody has set up logging before.
pub fn init_logging(format: LogFormat) -> Result<(), LoggingError> {
    let filter = filter(env::var("RUST_LOG").unwrap_or_default())?;
    tracing_subscriber::registry()
        .with(layer(format))
        .with(filter)
        .try_init()
        .map_err(|error| LoggingError::AlreadyInstalled(error.to_string()))?;
    log_panics();
    Ok(())
}

/// The layer alone, writing to stdout, for an application with a subscriber of its own.
pub fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    match format {
        LogFormat::Json => ecs::layer(stdout, service_name()).boxed(),
        LogFormat::Pretty => text::layer(stdout, colours_wanted()).boxed(),
    }
}

fn filter(given: String) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(&given)
        .map_err(|error| LoggingError::Filter {
            why: error.to_string(),
            given,
        })
}

fn service_name() -> String {
    let named = env::var("OTEL_SERVICE_NAME").unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    let program = env::current_exe().ok();
    let stem = program.as_deref().and_then(|path| path.file_stem());
    stem.map_or_else(
        || "orchestrator".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

fn colours_wanted() -> bool {
    stdout().is_terminal() && env::var("NO_COLOR").unwrap_or_default().is_empty()
}

/// A panicking transformer is caught; what it said belongs into the log, with the record's dedup key, and not as
/// bare text on stderr.
fn log_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if tracing::enabled!(tracing::Level::ERROR) {
            log_panic(info);
        } else {
            before(info);
        }
    }));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let said = info.payload_as_str().unwrap_or("a value that is no text");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    // Captured only if RUST_BACKTRACE asks for it.
    let stack_trace = backtrace::Backtrace::capture();
    let stack_trace = (stack_trace.status() == backtrace::BacktraceStatus::Captured)
        .then(|| stack_trace.to_string());
    tracing::error!(
        target: "panic",
        {
            "error.type" = "panic",
            "error.message" = said,
            "error.stack_trace" = stack_trace,
            location
        },
        "panic: {said}"
    );
}

#[cfg(test)]
mod stage_tests;
#[cfg(test)]
mod tests;
