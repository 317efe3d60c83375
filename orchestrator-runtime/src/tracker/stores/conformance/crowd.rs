//! Several processes at the same table, and calls that are given up half-way.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use futures_util::future::{join_all, try_join_all};
use orchestrator_core::{Settlement, StoreError, StoreErrorClass};

use super::*;

pub(crate) async fn preparing_again_keeps_what_is_there<H: Harness>() {
    let (harness, store) = H::ready().await;
    store
        .upsert_failed(&identity(), &rows(0..1, 1), 1)
        .await
        .unwrap();
    store.prepare().await.unwrap();
    harness.store(TABLE).prepare().await.unwrap();
    assert_eq!(harness.summary().await, ["0 FAILED provisional fence 1"]);
}

pub(crate) async fn several_processes_may_start_at_once<H: Harness>() {
    let harness = H::new().await;
    let stores: Vec<_> = (0..4).map(|_| harness.store(TABLE)).collect();
    let prepared = stores.iter().map(FailureStore::prepare);
    try_join_all(prepared).await.unwrap();
    for (offset, store) in (0..).zip(&stores) {
        store
            .insert_received(&identity(), &taken([offset], 1), 1)
            .await
            .unwrap();
    }
    assert_eq!(harness.rows(TABLE).await.len(), 4);
}

pub(crate) async fn the_table_may_have_another_name_and_neighbours<H: Harness>() {
    let harness = H::new().await;
    let tables = [TABLE, "order", "Mixed_Case9"];
    for (fence, table) in (1..).zip(tables) {
        let store = harness.store(table);
        store.prepare().await.unwrap();
        store.prepare().await.unwrap();
        store
            .upsert_failed(&identity(), &rows([1], fence), 1)
            .await
            .unwrap();
    }
    for (fence, table) in (1..).zip(tables) {
        let found = harness.rows(table).await;
        assert_eq!(found.len(), 1, "{table}");
        assert_eq!(found[0].fence, fence, "{table}");
    }
}

/// Does it again while it meets conflicts, as the guard does, but not for ever.
async fn insisting<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 0..20 {
        match call().await {
            Err(error) if error.class == StoreErrorClass::Conflict => {}
            result => return result.unwrap(),
        }
    }
    panic!("conflicts without end");
}

pub(crate) async fn two_processes_may_write_the_same_rows_at_once<H: Harness>() {
    const ROWS: i64 = 120;
    let (harness, first) = H::ready().await;
    let stores = [first, harness.store(TABLE)];
    let ledger = identity();
    let work = (0..8u64).map(|worker| {
        let (store, ledger) = (&stores[worker as usize % 2], &ledger);
        async move {
            let mut random = fastrand::Rng::with_seed(worker);
            for round in 0..6 {
                // Each fence once as RECEIVED, and half of it as FAILED: overlapping, in any order.
                let mut batch = rows(0..ROWS, round * 8 + worker as i64);
                random.shuffle(&mut batch);
                let half = &batch[..ROWS as usize / 2];
                let positions: Vec<_> = half.iter().map(|row| row.position.clone()).collect();
                let from = random.i64(0..ROWS);
                let ranges = [range(from, ROWS), range(0, from / 2)];
                insisting(|| store.insert_received(ledger, &batch, 100)).await;
                insisting(|| store.upsert_failed(ledger, half, 100)).await;
                insisting(|| store.pass_failed(ledger, &positions, round)).await;
                insisting(|| store.succeed(ledger, &ranges, round)).await;
                let settlement = Settlement::Unknown;
                insisting(|| store.settle(ledger, &positions, settlement, 1, 100)).await;
            }
        }
    });
    join_all(work).await;
    let found = harness.rows(TABLE).await;
    let offsets: Vec<_> = found.iter().map(|row| row.source_offset).collect();
    assert_eq!(offsets, (0..ROWS).collect::<Vec<_>>());
    assert!(found.iter().all(|row| row.fence == 47), "the newest wins");
}

pub(crate) async fn several_processes_may_prune_at_once<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .insert_received(&ledger, &taken(0..200, 1), 1)
        .await
        .unwrap();
    store.succeed(&ledger, &[range(0, 180)], 2).await.unwrap();
    let stores: Vec<_> = (0..3).map(|_| harness.store(TABLE)).collect();
    let pruned = join_all(stores.iter().map(|store| async {
        let mut pruned = 0;
        for _ in 0..12 {
            pruned += insisting(|| store.prune(&ledger, 0..9, 10)).await;
        }
        pruned
    }));
    let pruned: u64 = pruned.await.into_iter().sum();
    assert_eq!(pruned, 180, "each row once");
    assert_eq!(harness.rows(TABLE).await.len(), 20);
}

/// Gives a future up after so many polls; whether it was done by then.
async fn abandoned<T>(call: impl Future<Output = T>, polls: usize) -> bool {
    let mut call = pin!(call);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        call.as_mut().poll(cx).map(|_| true)
    })
    .await
}

pub(crate) async fn a_dropped_future_does_no_harm<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    for polls in 0..12 {
        let offset = polls as i64 * 10;
        let (all, failed) = (taken(offset..offset + 4, 1), rows(offset..offset + 2, 1));
        let (passed, ranges) = (at([offset]), [range(offset + 1, offset + 4)]);
        let from = orders().at(offset);
        // Given up, then repeated until it is done.
        abandoned(store.insert_received(&ledger, &all, 1), polls).await;
        store.insert_received(&ledger, &all, 1).await.unwrap();
        abandoned(store.upsert_failed(&ledger, &failed, 1), polls).await;
        store.upsert_failed(&ledger, &failed, 1).await.unwrap();
        abandoned(store.provisional(&ledger, &from, 9), polls).await;
        let found = provisional(&store, &ledger, from, 9).await;
        assert_eq!(found, [offset, offset + 1]);
        abandoned(store.pass_failed(&ledger, &passed, 2), polls).await;
        store.pass_failed(&ledger, &passed, 2).await.unwrap();
        abandoned(store.succeed(&ledger, &ranges, 2), polls).await;
        store.succeed(&ledger, &ranges, 2).await.unwrap();
        abandoned(store.prepare(), polls).await;
        store.prepare().await.unwrap();
        let summary = harness.summary().await;
        let expected = [
            format!("{offset} FAILED passed 2 fence 1"),
            format!("{} SUCCESS passed 2 fence 1 resolved 2", offset + 1),
            format!("{} SUCCESS passed 2 fence 1", offset + 2),
            format!("{} SUCCESS passed 2 fence 1", offset + 3),
        ];
        assert_eq!(summary[summary.len() - 4..], expected);
    }
}
