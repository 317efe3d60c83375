//! The README's memory sum of one worker: each bound, its default as the configuration has it, and their sum. Called by
//! `docs.rs`. What bounds what is the runtime's doing; here it is only added up.

use std::fmt::Write as _;

use anyhow::anyhow;
use orchestrator_runtime::Config;

const MIB: usize = 1024 * 1024;

/// The table, with the defaults of this version.
pub(super) fn table() -> anyhow::Result<String> {
    let required = [
        ("ORCH_BOOTSTRAP_SERVERS", "localhost:9092"),
        ("ORCH_SOURCE_TOPICS", "orders"),
        ("ORCH_GROUP_ID", "group"),
    ];
    let required = required.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let batch = Config::from_map(required)
        .map_err(|errors| anyhow!("{errors}"))?
        .batch;
    let unit = batch.max_bytes.max(batch.max_output_bytes);
    let rows = [
        (
            "fetched ahead by librdkafka",
            "`ORCH_PREFETCH_MAX_BYTES`",
            batch.prefetch_max_bytes,
        ),
        (
            "gathered for the worker",
            "B = `ORCH_BATCH_MAX_BYTES`",
            batch.max_bytes,
        ),
        (
            "with the transformer, or ready: two units' worth and the batch that was taken last",
            "2 U + B",
            2 * unit + batch.max_bytes,
        ),
        ("the unit that is being committed", "U", unit),
        (
            "waiting for held records",
            "`ORCH_HELD_MAX_BYTES`",
            batch.held_max_bytes,
        ),
        (
            "the producer's copies",
            "`ORCH_PRODUCER_QUEUE_MAX_BYTES`",
            batch.producer_queue_max_bytes,
        ),
    ];
    let mut text = String::from("| what | at most | by default |\n|---|---|---|\n");
    for (what, bound, bytes) in rows {
        writeln!(text, "| {what} | {bound} | {} MiB |", bytes / MIB)?;
    }
    let sum: usize = rows.iter().map(|(.., bytes)| bytes).sum();
    let (mib, mb) = (sum / MIB, sum / 1_000_000);
    writeln!(text, "| **sum** | | **{mib} MiB, {mb} MB** |")?;
    Ok(text)
}
