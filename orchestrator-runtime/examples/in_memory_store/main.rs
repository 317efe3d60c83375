//! A pipeline whose failure ledger is a database of one's own, here one in memory. Ctrl-C ends it and shows the rows.
//!
//! ```sh
//! ORCH_BOOTSTRAP_SERVERS=localhost:9092 ORCH_SOURCE_TOPICS=orders ORCH_TARGET_TOPIC=shouted ORCH_GROUP_ID=shouters \
//!     ORCH_FAILURE_MODE=SKIP_AND_LOG ORCH_DB_STRATEGY=OUTBOX cargo run --example in_memory_store
//! ```

use std::error::Error;

use orchestrator_runtime::core::{
    Context, Output, Record, ResultExt, TransformError, transform_fn,
};
use orchestrator_runtime::{CancellationToken, Config, Orchestrator};

// Public, as in a crate of its own.
#[allow(unreachable_pub)]
mod store;

use store::InMemoryStore;

fn shout(record: &Record, _cx: &Context<'_>) -> Result<Output, TransformError> {
    let text = std::str::from_utf8(record.value().unwrap_or_default()).permanent()?;
    Ok(Output::new(text.to_uppercase()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = InMemoryStore::default();
    let pipeline = Orchestrator::builder(Config::from_env()?)
        .transformer(transform_fn(shout))
        .failure_store(store.clone())
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
    for (_, row) in store.rows() {
        let error = row.error_message().unwrap_or_default();
        println!("{} {} {error}", row.row.position, row.status.as_str());
    }
    Ok(())
}
