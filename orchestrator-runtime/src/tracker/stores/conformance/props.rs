//! Any bytes and any history: no row is refused for its content, and a store does as the one in memory does.

use orchestrator_core::{Record, Settlement};
use proptest::prelude::*;

use super::super::super::fake_store::FakeStore;
use super::*;

fn any_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(vec![0; 3])
    ])
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) fn any_bytes_are_stored_as_they_are<H: Harness>() {
    let runtime = runtime();
    let (harness, store) = runtime.block_on(H::ready());
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
        let offset = next.replace(next.get() + 1);
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
        let stored = runtime.block_on(harness.rows(TABLE)).pop().unwrap();
        prop_assert_eq!(stored.source_offset, offset);
        prop_assert_eq!(stored.message_key, key);
        prop_assert_eq!(stored.payload, value);
        prop_assert_eq!(stored.headers, row.headers.to_vec());
        prop_assert_eq!(stored.dedup_key, row.dedup_key);
        prop_assert_eq!(stored.record_timestamp_ms, row.record_timestamp_ms);
        prop_assert_eq!(stored.error_message, row.error.map(|error| error.message));
    });
}

/// Offsets with their fences, in any order.
type Batch = Vec<(i64, i64)>;

#[derive(Clone, Debug)]
enum Op {
    Failed(Batch, Option<i64>),
    Received(Batch),
    Pass(Vec<i64>),
    Succeed(Vec<(i64, i64)>),
    Settle(Vec<i64>, Settlement, i64),
    Prune(i64, i64),
    Provisional(i64, usize),
    ReceivedPage(i64, usize),
}

const OFFSETS: std::ops::Range<i64> = 0..7;

fn op() -> impl Strategy<Value = Op> {
    let batch = || {
        prop::collection::btree_map(OFFSETS, 0..20i64, 1..5)
            .prop_map(|batch| batch.into_iter().collect::<Batch>())
            .prop_shuffle()
    };
    let offsets = || {
        prop::collection::btree_set(OFFSETS, 1..4)
            .prop_map(|offsets| offsets.into_iter().collect::<Vec<_>>())
            .prop_shuffle()
    };
    let settlement = prop::sample::select(vec![
        Settlement::Success,
        Settlement::Unknown,
        Settlement::Stale,
    ]);
    prop_oneof![
        3 => (batch(), prop::option::of(0..20i64)).prop_map(|(batch, passed)| Op::Failed(batch, passed)),
        3 => batch().prop_map(Op::Received),
        2 => offsets().prop_map(Op::Pass),
        3 => prop::collection::vec((OFFSETS, OFFSETS), 1..4).prop_map(Op::Succeed),
        2 => (offsets(), settlement, 0..25i64).prop_map(|(at, settlement, before)| Op::Settle(at, settlement, before)),
        1 => (0..20i64, 0..20i64).prop_map(|(from, to)| Op::Prune(from, to)),
        1 => (OFFSETS, 1..9usize).prop_map(|(from, limit)| Op::Provisional(from, limit)),
        1 => (OFFSETS, 1..9usize).prop_map(|(from, limit)| Op::ReceivedPage(from, limit)),
    ]
}

/// Does it, and gives what came back.
async fn apply(
    store: &dyn FailureStore,
    ledger: &LedgerIdentity,
    op: &Op,
    now_ms: i64,
) -> Result<String, orchestrator_core::StoreError> {
    let batch = |batch: &Batch, passed_at_ms| -> Vec<LedgerRow> {
        let row = |&(offset, fence): &(i64, i64)| LedgerRow {
            attempts: now_ms as u32,
            passed_at_ms,
            ..row(offset, fence)
        };
        batch.iter().map(row).collect()
    };
    match op {
        Op::Failed(rows, passed) => {
            let rows = batch(rows, *passed);
            store.upsert_failed(ledger, &rows, now_ms).await?;
        }
        Op::Received(rows) => {
            let row = |&(offset, fence): &(i64, i64)| taken([offset], fence);
            let rows: Vec<_> = rows.iter().flat_map(row).collect();
            store.insert_received(ledger, &rows, now_ms).await?;
        }
        Op::Pass(offsets) => {
            let positions = at(offsets.clone());
            store.pass_failed(ledger, &positions, now_ms).await?;
        }
        Op::Succeed(ranges) => {
            let ranges: Vec<_> = ranges.iter().map(|&(from, to)| range(from, to)).collect();
            store.succeed(ledger, &ranges, now_ms).await?;
        }
        Op::Settle(offsets, settlement, before) => {
            let positions = at(offsets.clone());
            store
                .settle(ledger, &positions, *settlement, *before, now_ms)
                .await?;
        }
        Op::Prune(from, to) => {
            return Ok(format!("{}", store.prune(ledger, *from..*to, 99).await?));
        }
        Op::Provisional(from, limit) => {
            let found = store
                .provisional(ledger, &orders().at(*from), *limit)
                .await?;
            return Ok(format!("{found:?}"));
        }
        Op::ReceivedPage(from, limit) => {
            let page = store
                .received_page(ledger, &orders().at(*from), *limit)
                .await?;
            return Ok(format!("{page:?}"));
        }
    }
    Ok(String::new())
}

/// Offset, status, passed and resolved, fence, attempts, class, created and updated.
type Line = (
    i64,
    String,
    Option<i64>,
    bool,
    i64,
    i64,
    Option<String>,
    i64,
    i64,
);

fn kept_in_memory(store: &FakeStore) -> Vec<Line> {
    let inner = store.inner();
    let rows = inner.rows.iter();
    rows.map(|((position, _), stored)| {
        let row = &stored.row;
        (
            position.offset,
            stored.status.as_str().to_owned(),
            row.passed_at_ms,
            stored.resolved,
            row.fence,
            row.attempts.into(),
            stored.error_class().map(str::to_owned),
            stored.created_ms,
            stored.updated_ms,
        )
    })
    .collect()
}

fn line(stored: &Stored) -> Line {
    (
        stored.source_offset,
        stored.status.clone(),
        stored.passed_at,
        stored.resolved_at.is_some(),
        stored.fence,
        stored.attempts,
        stored.error_class.clone(),
        stored.created_at,
        stored.updated_at,
    )
}

pub(crate) fn it_does_as_the_store_in_memory_does<H: Harness>() {
    let runtime = runtime();
    let (harness, store) = runtime.block_on(H::ready());
    let case = std::cell::Cell::new(0);
    proptest!(ProptestConfig::with_cases(64), |(ops in prop::collection::vec(op(), 1..25))| {
        // A ledger of its own for each case: the rows of the others must not matter.
        let ledger = LedgerIdentity { consumer_group: format!("g{}", case.get()), ..identity() };
        case.set(case.get() + 1);
        let fake = FakeStore::new();
        let found = runtime.block_on(async {
            for (now_ms, op) in (1..).zip(&ops) {
                let done = apply(&store, &ledger, op, now_ms).await;
                let expected = apply(&*fake, &ledger, op, now_ms).await;
                assert_eq!(done, expected, "{op:?} at {now_ms}");
            }
            harness.rows(TABLE).await
        });
        let found = found.iter().filter(|row| row.consumer_group == ledger.consumer_group);
        let found: Vec<_> = found.map(line).collect();
        prop_assert_eq!(found, kept_in_memory(&fake));
    });
}
