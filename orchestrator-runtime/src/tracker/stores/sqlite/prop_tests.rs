//! The SQLite store with any bytes and any history: no row is refused for its content, and it does as the store in
//! memory does.
#![allow(clippy::unwrap_used)]

use orchestrator_core::Record;
use proptest::prelude::*;
use sqlx::Row;

use super::super::super::fake_store::{FakeStore, failed, identity, orders};
use super::tests::{ready, row};
use super::*;

fn any_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(vec![0; 3])
    ])
}

#[derive(Clone, Debug)]
enum Op {
    Failed(i64, i64),
    Received(i64, i64),
    Pass(i64),
    Succeed(i64, i64),
}

fn op() -> impl Strategy<Value = Op> {
    let (offset, fence) = (0..6i64, 0..4i64);
    prop_oneof![
        (offset.clone(), fence.clone()).prop_map(|(offset, fence)| Op::Failed(offset, fence)),
        (offset.clone(), fence).prop_map(|(offset, fence)| Op::Received(offset, fence)),
        offset.clone().prop_map(Op::Pass),
        (offset.clone(), offset).prop_map(|(from, next)| Op::Succeed(from, next)),
    ]
}

async fn apply(store: &dyn FailureStore, op: &Op, now_ms: i64) {
    let ledger = identity();
    match *op {
        Op::Failed(offset, fence) => {
            store
                .upsert_failed(&ledger, &[row(offset, fence)], now_ms)
                .await
        }
        Op::Received(offset, fence) => {
            store
                .insert_received(&ledger, &[row(offset, fence)], now_ms)
                .await
        }
        Op::Pass(offset) => {
            store
                .pass_failed(&ledger, &[orders().at(offset)], now_ms)
                .await
        }
        Op::Succeed(from, next) => {
            let range = OffsetRange {
                partition: orders(),
                from,
                next,
            };
            store.succeed(&ledger, &[range], now_ms).await
        }
    }
    .unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn any_bytes_are_stored_as_they_are() {
    let runtime = runtime();
    let (_folder, store) = runtime.block_on(ready());
    let next = std::cell::Cell::new(0);
    let record = (
        any_bytes(),
        any_bytes(),
        any::<String>(),
        any_bytes(),
        any::<String>(),
        any::<Option<i64>>(),
    );
    proptest!(ProptestConfig::with_cases(64), |((key, value, name, header, message, timestamp) in record)| {
        let offset = next.get();
        next.set(offset + 1);
        let mut record = Record::builder("orders", 0, offset);
        if let Some(key) = &key { record = record.key(key.clone()); }
        if let Some(value) = &value { record = record.value(value.clone()); }
        if let Some(header) = header { record = record.header(name, header); }
        if let Some(timestamp) = timestamp { record = record.timestamp_ms(timestamp); }
        let mut failed = failed(offset, 1);
        failed.record = record.build();
        failed.failure.message = message;
        let row = LedgerRow::failed(&failed, true);
        let written = runtime.block_on(store.upsert_failed(&identity(), std::slice::from_ref(&row), 1));
        prop_assert_eq!(written, Ok(()));
        let stored = runtime.block_on(async {
            let mut lease = store.lease().await.unwrap();
            let sql = "SELECT message_key, payload, headers, error_message FROM event_failures WHERE source_offset = ?";
            let stored = sqlx::query(sql).bind(offset).fetch_one(&mut *lease.connection).await.unwrap();
            lease.answered();
            stored
        });
        prop_assert_eq!(stored.get::<Option<Vec<u8>>, _>(0), key);
        prop_assert_eq!(stored.get::<Option<Vec<u8>>, _>(1), value);
        prop_assert_eq!(stored.get::<Vec<u8>, _>(2), row.headers.to_vec());
        prop_assert_eq!(stored.get::<String, _>(3), row.error.unwrap().message);
    });
}

#[test]
fn it_does_as_the_store_in_memory_does() {
    let runtime = runtime();
    let (_folder, store) = runtime.block_on(ready());
    proptest!(ProptestConfig::with_cases(48), |(ops in prop::collection::vec(op(), 1..20))| {
        let (stored, expected) = runtime.block_on(async {
            store.texts("DELETE FROM event_failures").await;
            let fake = FakeStore::new();
            for (at, op) in ops.iter().enumerate() {
                apply(&store, op, at as i64 + 1).await;
                apply(&*fake, op, at as i64 + 1).await;
            }
            let expected: Vec<String> = fake.inner().rows.iter().map(|((position, _), stored)| {
                let passed = stored.row.passed_at_ms.map_or(" provisional".into(), |at| format!(" passed {at}"));
                let resolved = if stored.resolved { " resolved" } else { "" };
                let (status, fence, attempts) = (stored.status.as_str(), stored.row.fence, stored.row.attempts);
                format!("{} {status}{passed} {fence} {attempts}{resolved}", position.offset)
            }).collect();
            (store.summary().await, expected)
        });
        prop_assert_eq!(stored, expected);
    });
}
