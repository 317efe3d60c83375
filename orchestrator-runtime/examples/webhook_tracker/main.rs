//! A pipeline that tells a webhook of the records that fail. Ctrl-C ends it.
//!
//! ```sh
//! ORCH_BOOTSTRAP_SERVERS=localhost:9092 ORCH_SOURCE_TOPICS=orders ORCH_TARGET_TOPIC=shouted ORCH_GROUP_ID=shouters \
//!     ORCH_FAILURE_MODE=SKIP_AND_LOG cargo run --example webhook_tracker http://localhost:8080/failures
//! ```

use std::error::Error;
use std::time::Duration;

use orchestrator_runtime::core::{
    Context, Output, Record, ResultExt, TransformError, transform_fn,
};
use orchestrator_runtime::{CancellationToken, Config, Orchestrator};

// Public, as in a crate of its own.
#[allow(unreachable_pub)]
mod http;
#[allow(unreachable_pub)]
mod tracker;

use http::Webhook;
use tracker::WebhookTracker;

fn shout(record: &Record, _cx: &Context<'_>) -> Result<Output, TransformError> {
    let text = std::str::from_utf8(record.value().unwrap_or_default()).permanent()?;
    Ok(Output::new(text.to_uppercase()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .ok_or("which webhook? give its URL")?;
    let webhook = Webhook::new(&url, Duration::from_secs(5))?;
    let pipeline = Orchestrator::builder(Config::from_env()?)
        .transformer(transform_fn(shout))
        .failure_tracker(WebhookTracker::start(webhook))
        .build()?;
    let drain = CancellationToken::new();
    let running = tokio::spawn(pipeline.run(drain.clone()));
    tokio::signal::ctrl_c().await?;
    drain.cancel();
    let drained = running.await??;
    println!(
        "{} records, {} failed",
        drained.counts.ok, drained.counts.failed
    );
    Ok(())
}
