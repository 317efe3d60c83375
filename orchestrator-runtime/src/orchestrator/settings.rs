//! From the configuration to what the parts are told. Called by the builder and by the run; pure.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use orchestrator_core::quarantine::Quarantine;
use orchestrator_core::{AtomicOnPoison, Backoff, FailureMode, Policy, SourcePartition};

use crate::config::Config;
use crate::identity::Identity;
use crate::tracker::LedgerSettings;
use crate::worker::settings::WorkerSettings;
use crate::worker::stage::StageSettings;

/// What the ledger is told.
pub(super) fn ledger(config: &Config) -> LedgerSettings {
    let ledger = &config.ledger;
    LedgerSettings {
        strategy: ledger.strategy,
        url: ledger.url.as_ref().map(|url| url.expose().to_owned()),
        table: ledger.table.clone(),
        timeout: ledger.timeout,
        batch_budget: ledger.batch_budget,
        circuit_failure_threshold: ledger.circuit_failure_threshold,
        circuit_open: ledger.circuit_open,
        degrade_dont_block: ledger.degrade_dont_block,
        queue_max_rows: ledger.queue_max_rows,
        max_connections: ledger.max_connections,
        spill_dir: ledger.spill_dir.clone(),
        spill_max_bytes: ledger.spill_max_bytes,
        safeguard_stale: ledger.safeguard_stale,
        retention: ledger.retention,
        // Whatever is passed has succeeded: failures hold their partition, and nobody lets one pass by hand.
        only_success_passes: config.failure.mode == FailureMode::Atomic
            && config.failure.atomic_on_poison == AtomicOnPoison::Block
            && config.failure.dead_letter_records.is_empty(),
        store_payload: ledger.store_payload,
        pipeline: config.kafka.group_id.clone(),
    }
}

/// Which life of this process's identity this is.
static LIFE: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));

/// What worker `number` is told.
pub(super) fn worker(config: &Config, identity: &Identity, number: usize) -> WorkerSettings {
    let listed = config.failure.dead_letter_records.iter();
    let dead_letter_records: BTreeSet<_> = listed
        .map(|r| SourcePartition::new(r.topic.as_str(), r.partition).at(r.offset))
        .collect();
    WorkerSettings {
        policy: Policy {
            mode: config.failure.mode,
            on_poison: config.failure.atomic_on_poison,
            max_attempts: config.failure.max_attempts,
            backoff: Backoff {
                base: config.failure.retry_backoff,
                max: config.failure.retry_backoff_max,
            },
            skip_max_percent: config.failure.skip_max_percent,
            dead_letters: config.failure.dlq_topic.is_some(),
            dead_letter_records: dead_letter_records.clone(),
        },
        consumer_group: config.kafka.group_id.clone(),
        target_topic: config.kafka.target_topic.as_deref().map(Into::into),
        dlq_topic: config.failure.dlq_topic.clone(),
        stage: StageSettings {
            concurrency: config.transform.concurrency,
            timeout: config.transform.timeout,
            dead_letter_records: Arc::new(dead_letter_records),
            end_the_process: Arc::default(),
        },
        commit_interval: config.batch.commit_interval,
        max_records: config.batch.commit_max_records,
        max_bytes: config.batch.max_bytes.max(config.batch.max_output_bytes),
        max_output_bytes: config.batch.max_output_bytes,
        max_outputs_per_record: config.batch.max_outputs_per_record,
        output_dedup_header: config.failure.output_dedup_header,
        held_max_bytes: config.batch.held_max_bytes,
        drain_timeout: config.ops.drain_timeout,
        quarantine: (config.failure.crash_quarantine_after > 0).then(|| Quarantine {
            after: config.failure.crash_quarantine_after,
            owner: identity.fingerprint(),
            life: *LIFE,
        }),
        seed: fastrand::u64(..) ^ number as u64,
    }
}
