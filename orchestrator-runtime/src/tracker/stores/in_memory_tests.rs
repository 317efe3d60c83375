//! The example's store keeps the promises that the databases keep. Test only.
#![allow(clippy::unwrap_used)]

#[path = "../../../examples/in_memory_store/store.rs"]
#[allow(unreachable_pub)]
mod in_memory;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use orchestrator_core::LedgerIdentity;

use super::conformance::{Harness, Stored, conformance};
use in_memory::{InMemoryStore, StoredRow};

conformance!(Tables);

/// A store for each name of a table.
#[derive(Default)]
struct Tables(Arc<Mutex<BTreeMap<String, InMemoryStore>>>);

impl Harness for Tables {
    type Store = InMemoryStore;

    async fn new() -> Self {
        Self::default()
    }

    fn store(&self, table: &str) -> InMemoryStore {
        let mut tables = self.0.lock().unwrap();
        tables.entry(table.to_owned()).or_default().clone()
    }

    async fn stored(&self, table: &str) -> Vec<Stored> {
        self.store(table).rows().into_iter().map(stored).collect()
    }
}

fn stored((ledger, stored): (LedgerIdentity, StoredRow)) -> Stored {
    let row = &stored.row;
    Stored {
        cluster_id: ledger.cluster_id,
        consumer_group: ledger.consumer_group,
        source_topic: row.position.partition.topic.to_string(),
        source_partition: row.position.partition.partition,
        source_offset: row.position.offset,
        record_timestamp_ms: row.record_timestamp_ms,
        target_topic: row.target_topic.as_ref().map(|topic| topic.to_string()),
        message_key: row.message_key.as_ref().map(|key| key.to_vec()),
        headers: row.headers.to_vec(),
        status: stored.status.as_str().to_owned(),
        attempts: row.attempts.into(),
        dedup_key: row.dedup_key.clone(),
        origin_dedup_key: row.origin_dedup_key.clone(),
        error_class: stored.error_class().map(str::to_owned),
        error_message: stored.error_message().map(str::to_owned),
        error_chain: row.error.as_ref().map(|error| error.chain.clone()),
        payload: row.payload.as_ref().map(|payload| payload.to_vec()),
        dead_lettered: row.dead_lettered,
        fence: row.fence,
        passed_at: row.passed_at_ms,
        resolved_at: stored.resolved_at_ms,
        created_at: stored.created_at_ms,
        updated_at: stored.updated_at_ms,
    }
}
