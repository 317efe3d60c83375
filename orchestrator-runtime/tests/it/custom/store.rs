//! The example's store under the strategies.

#[path = "../../../examples/in_memory_store/store.rs"]
#[allow(unreachable_pub)]
mod in_memory;

use orchestrator_runtime::core::ledger_row::LedgerStatus;

use super::*;
use in_memory::{InMemoryStore, StoredRow};

const RECORDS: i64 = 500;

/// Runs a pipeline over the store and drains it; its rows, in order.
async fn rows(strategy: &str) -> Vec<StoredRow> {
    let source = topics(RECORDS).await;
    let store = InMemoryStore::default();
    let built = builder(&source, &[("ORCH_DB_STRATEGY", strategy)])
        .failure_store(store.clone())
        .build()
        .unwrap();
    let running = run(&source, built);
    running.wait_for_committed(RECORDS).await;
    let drained = running.drain().await;
    assert_eq!(drained.counts.failed, 50);
    let rows = store.rows();
    for (ledger, _) in &rows {
        assert_eq!(ledger.consumer_group, source);
        assert!(!ledger.cluster_id.is_empty());
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

#[track_caller]
fn check(rows: &[StoredRow], expected: impl Iterator<Item = i64>) {
    let offsets: Vec<_> = rows.iter().map(|row| row.row.position.offset).collect();
    assert_eq!(offsets, expected.collect::<Vec<_>>());
    for row in rows {
        let status = match is_bad(row.row.position.offset) {
            true => LedgerStatus::Failed,
            false => LedgerStatus::Success,
        };
        assert_eq!(row.status, status, "{row:?}");
        assert!(row.row.passed_at_ms.is_some(), "{row:?}");
        let error = (status == LedgerStatus::Failed).then_some("bad");
        assert_eq!(row.error_message(), error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_ones_own_has_a_row_of_every_record_with_outbox() {
    check(&rows("OUTBOX").await, 0..RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_ones_own_has_a_row_of_every_failure_with_lightweight() {
    check(
        &rows("LIGHTWEIGHT").await,
        (0..RECORDS).filter(|at| is_bad(*at)),
    );
}
