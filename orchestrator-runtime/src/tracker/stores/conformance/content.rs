//! Whatever a record holds, its row is stored, and stored as it is.

use bytes::Bytes;
use orchestrator_core::ledger_row::{
    CHAIN_MAX_BYTES, DEDUP_KEY_MAX_BYTES, HEADERS_MAX_BYTES, KEY_MAX_BYTES, MESSAGE_MAX_BYTES,
    NO_TIMESTAMP, PAYLOAD_MAX_BYTES, RowError,
};
use orchestrator_core::{FailureClass, Record, SourcePartition};

use super::*;

async fn only<H: Harness>(harness: &H) -> Stored {
    let mut rows = harness.rows(TABLE).await;
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

/// What a row is in the table, FAILED.
fn stored(row: &LedgerRow, now_ms: i64) -> Stored {
    let vec = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| bytes.to_vec());
    Stored {
        cluster_id: identity().cluster_id,
        consumer_group: identity().consumer_group,
        source_topic: row.position.partition.topic.to_string(),
        source_partition: row.position.partition.partition,
        source_offset: row.position.offset,
        record_timestamp_ms: row.record_timestamp_ms,
        target_topic: row.target_topic.as_ref().map(|topic| topic.to_string()),
        message_key: vec(&row.message_key),
        headers: row.headers.to_vec(),
        status: "FAILED".into(),
        attempts: row.attempts.into(),
        dedup_key: row.dedup_key.clone(),
        origin_dedup_key: row.origin_dedup_key.clone(),
        error_class: row.error.as_ref().map(|error| error.class.as_str().into()),
        error_message: row.error.as_ref().map(|error| error.message.clone()),
        error_chain: row.error.as_ref().map(|error| error.chain.clone()),
        payload: vec(&row.payload),
        dead_lettered: row.dead_lettered,
        fence: row.fence,
        passed_at: row.passed_at_ms,
        resolved_at: None,
        created_at: now_ms,
        updated_at: now_ms,
    }
}

/// Stores a row as FAILED and finds it again as it was.
async fn check<H: Harness>(row: LedgerRow) {
    let (harness, store) = H::ready().await;
    let rows = [row];
    store.upsert_failed(&identity(), &rows, 500).await.unwrap();
    assert_eq!(only(&harness).await, stored(&rows[0], 500));
}

pub(crate) async fn a_failed_row_is_stored_in_full<H: Harness>() {
    let (harness, store) = H::ready().await;
    let full = LedgerRow {
        attempts: 3,
        origin_dedup_key: Some("o".into()),
        dead_lettered: true,
        passed_at_ms: Some(400),
        ..row(7, 100)
    };
    store
        .upsert_failed(&identity(), &[full], 500)
        .await
        .unwrap();
    let expected = Stored {
        cluster_id: "c".into(),
        consumer_group: "g".into(),
        source_topic: "orders".into(),
        source_partition: 0,
        source_offset: 7,
        record_timestamp_ms: 1,
        target_topic: Some("enriched".into()),
        message_key: Some(b"k".to_vec()),
        headers: b"[]".to_vec(),
        status: "FAILED".into(),
        attempts: 3,
        dedup_key: "orders-0-7".into(),
        origin_dedup_key: Some("o".into()),
        error_class: Some("permanent".into()),
        error_message: Some("no such sku".into()),
        error_chain: Some("TransformError (transform): no such sku".into()),
        payload: Some(b"v".to_vec()),
        dead_lettered: true,
        fence: 100,
        passed_at: Some(400),
        resolved_at: None,
        created_at: 500,
        updated_at: 500,
    };
    assert_eq!(only(&harness).await, expected);
}

pub(crate) async fn a_received_row_is_stored_in_full<H: Harness>() {
    let (harness, store) = H::ready().await;
    let record = Record::builder("orders", 3, 8).key("k").value("v").build();
    let row = LedgerRow::received(&record, 100, true);
    store
        .insert_received(&identity(), std::slice::from_ref(&row), 500)
        .await
        .unwrap();
    let expected = Stored {
        status: "RECEIVED".into(),
        record_timestamp_ms: NO_TIMESTAMP,
        attempts: 0,
        target_topic: None,
        error_class: None,
        ..stored(&row, 500)
    };
    assert_eq!(only(&harness).await, expected);
    assert_eq!(expected.payload.as_deref(), Some(&b"v"[..]));
}

pub(crate) async fn bytes_are_stored_as_they_are<H: Harness>() {
    let (harness, store) = H::ready().await;
    let all: Vec<u8> = (0..=255).collect();
    let contents = [
        None,
        Some(Bytes::new()),
        Some(Bytes::from_static(b"\0")),
        Some(Bytes::from_static(b"\0\0a\0")),
        Some(Bytes::from_static(b"\xff\xfe\\x00'\"")),
        Some(all.into()),
    ];
    let rows = contents.iter().enumerate();
    let rows: Vec<_> = rows
        .map(|(offset, content)| LedgerRow {
            message_key: content.clone(),
            headers: content.clone().unwrap_or_default(),
            payload: content.clone(),
            ..row(offset as i64, 1)
        })
        .collect();
    store.upsert_failed(&identity(), &rows, 5).await.unwrap();
    let expected: Vec<_> = rows.iter().map(|row| stored(row, 5)).collect();
    assert_eq!(harness.rows(TABLE).await, expected);
    store.insert_received(&identity(), &rows, 6).await.unwrap();
    assert_eq!(harness.rows(TABLE).await, expected);
}

fn largest(offset: i64) -> LedgerRow {
    // Four bytes a character, so that no limit in characters is taken for one in bytes.
    let text = |bytes: usize| "😀".repeat(bytes / 4);
    let noise = |bytes: usize| -> Option<Bytes> {
        let mut random = fastrand::Rng::with_seed(offset as u64);
        Some(
            std::iter::repeat_with(|| random.u8(..))
                .take(bytes)
                .collect(),
        )
    };
    let topic = "t".repeat(249);
    LedgerRow {
        position: SourcePartition::new(topic.clone(), 9999).at(offset),
        target_topic: Some(topic.into()),
        message_key: noise(KEY_MAX_BYTES),
        headers: noise(HEADERS_MAX_BYTES).unwrap(),
        payload: noise(PAYLOAD_MAX_BYTES),
        dedup_key: text(DEDUP_KEY_MAX_BYTES),
        origin_dedup_key: Some(text(DEDUP_KEY_MAX_BYTES)),
        error: Some(RowError {
            class: FailureClass::Infrastructure,
            message: text(MESSAGE_MAX_BYTES),
            chain: text(CHAIN_MAX_BYTES),
        }),
        ..row(offset, 1)
    }
}

pub(crate) async fn the_largest_row_fits<H: Harness>() {
    check::<H>(largest(1)).await;
}

pub(crate) async fn a_batch_of_large_rows_fits<H: Harness>() {
    let (harness, store) = H::ready().await;
    let rows: Vec<_> = (0..20).map(largest).collect();
    store.insert_received(&identity(), &rows, 5).await.unwrap();
    store.upsert_failed(&identity(), &rows, 5).await.unwrap();
    let found = harness.rows(TABLE).await;
    assert_eq!(found.len(), rows.len());
    assert_eq!(found[19], stored(&rows[19], 5));
}

pub(crate) async fn numbers_reach_their_limits<H: Harness>() {
    let (harness, store) = H::ready().await;
    // A Kafka offset is never the very last number: the next offset must exist.
    let offset = i64::MAX - 1;
    let most = LedgerRow {
        position: SourcePartition::new("orders", i32::MAX).at(offset),
        record_timestamp_ms: i64::MAX,
        attempts: u32::MAX,
        fence: i64::MAX,
        passed_at_ms: None,
        ..row(offset, 0)
    };
    let least = LedgerRow {
        record_timestamp_ms: i64::MIN,
        passed_at_ms: Some(i64::MIN),
        ..row(0, i64::MIN)
    };
    store
        .upsert_failed(&identity(), &[most.clone(), least.clone()], i64::MAX)
        .await
        .unwrap();
    let expected = [stored(&least, i64::MAX), stored(&most, i64::MAX)];
    assert_eq!(harness.rows(TABLE).await, expected);

    let from = SourcePartition::new("orders", i32::MAX).at(offset);
    let found = store.provisional(&identity(), &from, usize::MAX).await;
    assert_eq!(found.unwrap()[0].fence, i64::MAX);
    let all = OffsetRange {
        partition: from.partition.clone(),
        from: i64::MIN,
        next: i64::MAX,
    };
    store.succeed(&identity(), &[all], i64::MAX).await.unwrap();
    assert_eq!(provisional(&store, &identity(), from, 9).await, [0; 0]);
}

pub(crate) async fn texts_of_any_script_are_kept<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = LedgerIdentity {
        cluster_id: "кластер 😀 ".into(),
        consumer_group: "グループ \u{10FFFF} 'x' \\ % _".into(),
    };
    let text = "x' OR 1=1 -- \\ \\0 \u{FFFD} {\"a\"} $1 ? :a @b \u{1F600}\u{200D}\u{202E} ";
    let row = LedgerRow {
        target_topic: Some(text.into()),
        dedup_key: text.into(),
        origin_dedup_key: Some(String::new()),
        error: Some(RowError {
            class: FailureClass::Transient,
            message: text.into(),
            chain: format!("{text}\n\t{text}"),
        }),
        ..row(1, 1)
    };
    let rows = [row];
    store.upsert_failed(&ledger, &rows, 5).await.unwrap();
    let expected = Stored {
        cluster_id: ledger.cluster_id.clone(),
        consumer_group: ledger.consumer_group.clone(),
        ..stored(&rows[0], 5)
    };
    assert_eq!(only(&harness).await, expected);
    store.succeed(&ledger, &[range(1, 2)], 6).await.unwrap();
    assert_eq!(only(&harness).await.status, "SUCCESS");
}

/// A transformer may choose any text as a topic, which Kafka then refuses: its failure must be storable.
pub(crate) async fn no_text_is_refused<H: Harness>() {
    let (harness, store) = H::ready().await;
    let row = LedgerRow {
        target_topic: Some(format!("a\0b{}", "😀".repeat(2000)).into()),
        dedup_key: "a\0b".into(),
        origin_dedup_key: Some("\0".into()),
        error: Some(RowError {
            class: FailureClass::Permanent,
            message: "a\0b".into(),
            chain: "\0".into(),
        }),
        ..row(1, 1)
    };
    let rows = [row.clone()];
    store.insert_received(&identity(), &rows, 5).await.unwrap();
    store.upsert_failed(&identity(), &rows, 5).await.unwrap();
    let rows = [LedgerRow { fence: 2, ..row }.bare()];
    store.upsert_failed(&identity(), &rows, 5).await.unwrap();
    assert_eq!(harness.summary().await, ["1 FAILED provisional fence 2"]);
}

/// A topic that was deleted and made anew begins at 0 again.
pub(crate) async fn two_records_may_have_had_the_same_position<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    let second = LedgerRow {
        record_timestamp_ms: 2,
        ..row(1, 1)
    };
    let rows = [row(1, 1), second];
    store.insert_received(&ledger, &rows, 1).await.unwrap();
    store.upsert_failed(&ledger, &rows, 1).await.unwrap();
    assert_eq!(harness.rows(TABLE).await.len(), 2);
    store.pass_failed(&ledger, &at([1]), 5).await.unwrap();
    assert_eq!(
        harness.summary().await,
        ["1 FAILED passed 5 fence 1", "1 FAILED passed 5 fence 1"]
    );
}
