//! Many rows: batches, ranges, pages, the safeguard's work and the retention's.

use orchestrator_core::tracker::{STALE_CLASS, STALE_MESSAGE};
use orchestrator_core::{ReceivedRow, Settlement, SourcePartition};

use super::*;

fn count(found: &[Stored], status: &str) -> usize {
    found.iter().filter(|row| row.status == status).count()
}

pub(crate) async fn as_many_rows_as_a_statement_takes<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    let most = store.rows_per_statement() as i64;
    let batch = rows(0..most, 1);
    store.insert_received(&ledger, &batch, 1).await.unwrap();
    store.upsert_failed(&ledger, &batch, 1).await.unwrap();
    let found = provisional(&store, &ledger, orders().at(0), usize::MAX).await;
    assert_eq!(found.len() as i64, most);
    let half = most / 2;
    store
        .pass_failed(&ledger, &at(0..most).split_off(half as usize), 2)
        .await
        .unwrap();
    let ranges: Vec<_> = (0..most).map(|offset| range(offset, offset + 1)).collect();
    store.succeed(&ledger, &ranges, 3).await.unwrap();
    let found = harness.rows(TABLE).await;
    assert_eq!(count(&found, "SUCCESS") as i64, half);
    assert_eq!(count(&found, "FAILED") as i64, most - half);
    store
        .insert_received(&ledger, &taken(0..most, 4), 4)
        .await
        .unwrap();
    store
        .settle(&ledger, &at(0..most), Settlement::Success, 5, 6)
        .await
        .unwrap();
    let pruned = store.prune(&ledger, 0..9, most as usize).await.unwrap();
    assert_eq!(pruned as i64, most);
    assert_eq!(harness.rows(TABLE).await, []);
}

pub(crate) async fn nothing_to_do_is_no_error<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store.insert_received(&ledger, &[], 1).await.unwrap();
    store.upsert_failed(&ledger, &[], 1).await.unwrap();
    for (positions, ranges) in [
        (vec![], vec![]),
        (at([7]), vec![range(7, 9), range(3, 3), range(5, 2)]),
    ] {
        store.pass_failed(&ledger, &positions, 1).await.unwrap();
        store.succeed(&ledger, &ranges, 1).await.unwrap();
        store
            .settle(&ledger, &positions, Settlement::Stale, 9, 1)
            .await
            .unwrap();
    }
    assert_eq!(store.prune(&ledger, 0..9, 9).await.unwrap(), 0);
    let page = store.received_page(&ledger, &orders().at(0), 9).await;
    assert_eq!(page.unwrap(), Default::default());
    assert_eq!(harness.rows(TABLE).await, []);
}

pub(crate) async fn the_order_within_a_batch_does_not_matter<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    let elsewhere = |mut row: LedgerRow| {
        row.position.partition = SourcePartition::new("orders", (row.position.offset % 3) as i32);
        row
    };
    let mut batch: Vec<_> = rows(0..50, 1).into_iter().map(elsewhere).collect();
    let mut random = fastrand::Rng::with_seed(7);
    random.shuffle(&mut batch);
    store.insert_received(&ledger, &batch, 1).await.unwrap();
    random.shuffle(&mut batch);
    store.upsert_failed(&ledger, &batch[..20], 1).await.unwrap();
    let mut passed: Vec<_> = batch[..20].iter().map(|row| row.position.clone()).collect();
    random.shuffle(&mut passed);
    store.pass_failed(&ledger, &passed, 2).await.unwrap();
    let ranges: Vec<_> = batch
        .iter()
        .map(|row| OffsetRange {
            partition: row.position.partition.clone(),
            from: row.position.offset,
            next: row.position.offset + 1,
        })
        .collect();
    store.succeed(&ledger, &ranges, 3).await.unwrap();
    let found = harness.rows(TABLE).await;
    assert_eq!(
        (count(&found, "FAILED"), count(&found, "SUCCESS")),
        (20, 30)
    );
    for row in found {
        let failed = batch[..20]
            .iter()
            .any(|failed| failed.position.offset == row.source_offset);
        let (status, at) = if failed {
            ("FAILED", 2)
        } else {
            ("SUCCESS", 3)
        };
        assert_eq!((row.status.as_str(), row.passed_at), (status, Some(at)));
        assert_eq!(row.dedup_key, format!("orders-0-{}", row.source_offset));
    }
}

pub(crate) async fn ranges_end_before_their_next_offset<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .insert_received(&ledger, &taken(0..10, 1), 1)
        .await
        .unwrap();
    let ranges = [range(8, 9), range(1, 3), range(2, 4), range(5, 5)];
    store.succeed(&ledger, &ranges, 2).await.unwrap();
    let found = harness.rows(TABLE).await;
    let succeeded = found.iter().filter(|row| row.status == "SUCCESS");
    let succeeded: Vec<_> = succeeded.map(|row| row.source_offset).collect();
    assert_eq!(succeeded, [1, 2, 3, 8]);
}

pub(crate) async fn provisional_rows_come_in_pages<H: Harness>() {
    let (_harness, store) = H::ready().await;
    let ledger = identity();
    store
        .upsert_failed(&ledger, &rows((0..20).rev(), 3), 3)
        .await
        .unwrap();
    store
        .insert_received(&ledger, &taken(20..25, 3), 3)
        .await
        .unwrap();
    store.pass_failed(&ledger, &at([4, 6]), 3).await.unwrap();
    store.succeed(&ledger, &[range(5, 6)], 3).await.unwrap();
    let found = |from, limit| provisional(&store, &ledger, orders().at(from), limit);
    assert_eq!(found(0, 3).await, [0, 1, 2]);
    assert_eq!(found(3, 3).await, [3, 7, 8]);
    assert_eq!(found(18, 3).await, [18, 19]);
    assert_eq!(found(20, 3).await, [0; 0]);
    let whole = store.provisional(&ledger, &orders().at(0), 1).await;
    assert_eq!(whole.unwrap()[0].fence, 3);
}

pub(crate) async fn received_rows_come_in_pages<H: Harness>() {
    let (_harness, store) = H::ready().await;
    let ledger = identity();
    store
        .insert_received(&ledger, &taken(0..6, 1), 1)
        .await
        .unwrap();
    store
        .insert_received(&ledger, &taken(5..6, 2), 7)
        .await
        .unwrap();
    store.succeed(&ledger, &[range(1, 5)], 2).await.unwrap();
    store
        .upsert_failed(&ledger, &rows(6..7, 1), 1)
        .await
        .unwrap();
    let page = async |from, limit| {
        let page = store
            .received_page(&ledger, &orders().at(from), limit)
            .await;
        let page = page.unwrap();
        let row = |row: &ReceivedRow| (row.offset, row.updated_at_ms);
        (page.rows.iter().map(row).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(page(0, 2).await, (vec![(0, 1)], Some(2)));
    assert_eq!(page(2, 3).await, (vec![], Some(5)), "none of them RECEIVED");
    assert_eq!(
        page(5, 2).await,
        (vec![(5, 7)], Some(7)),
        "just a full page"
    );
    assert_eq!(page(7, 2).await, (vec![], None));
    assert_eq!(page(5, 3).await, (vec![(5, 7)], None));
}

pub(crate) async fn each_settlement_does_its_own<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .insert_received(&ledger, &taken(0..4, 1), 1)
        .await
        .unwrap();
    for (offset, settlement) in [
        (0, Settlement::Success),
        (1, Settlement::Unknown),
        (2, Settlement::Stale),
    ] {
        store
            .settle(&ledger, &at([offset]), settlement, 2, 9)
            .await
            .unwrap();
    }
    let expected = [
        "0 SUCCESS passed 9 fence 1",
        "1 UNKNOWN passed 9 fence 1",
        "2 FAILED provisional fence 1",
        "3 RECEIVED provisional fence 1",
    ];
    assert_eq!(harness.summary().await, expected);
    let found = harness.rows(TABLE).await;
    assert!(found[..3].iter().all(|row| row.updated_at == 9));
    assert_eq!(found[2].error_class.as_deref(), Some(STALE_CLASS));
    assert_eq!(found[2].error_message.as_deref(), Some(STALE_MESSAGE));
    assert_eq!(found[1].error_class, None);
    // It is a failure like any other: found, and resolved by a success.
    assert_eq!(provisional(&store, &ledger, orders().at(0), 9).await, [2]);
    store.succeed(&ledger, &[range(0, 3)], 11).await.unwrap();
    let expected = [
        "0 SUCCESS passed 9 fence 1",
        // Whoever knows has been late.
        "1 SUCCESS passed 11 fence 1",
        "2 SUCCESS passed 11 fence 1 resolved 11",
    ];
    assert_eq!(harness.summary().await[..3], expected);
}

pub(crate) async fn only_old_received_rows_are_settled<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .insert_received(&ledger, &taken(0..4, 1), 10)
        .await
        .unwrap();
    store
        .insert_received(&ledger, &taken(1..2, 2), 11)
        .await
        .unwrap();
    store
        .upsert_failed(&ledger, &rows(2..3, 1), 3)
        .await
        .unwrap();
    store.succeed(&ledger, &[range(3, 4)], 3).await.unwrap();
    let before = harness.rows(TABLE).await;
    for settlement in [Settlement::Stale, Settlement::Unknown, Settlement::Success] {
        store
            .settle(&ledger, &at(0..5), settlement, 10, 20)
            .await
            .unwrap();
    }
    assert_eq!(harness.rows(TABLE).await, before);
    store
        .settle(&ledger, &at((0..5).rev()), Settlement::Unknown, 11, 20)
        .await
        .unwrap();
    let expected = [
        "0 UNKNOWN passed 20 fence 1",
        "1 RECEIVED provisional fence 2",
        "2 FAILED provisional fence 1",
        "3 SUCCESS passed 3 fence 1",
    ];
    assert_eq!(harness.summary().await, expected);
}

pub(crate) async fn pruning_is_bounded_and_takes_successes_only<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    // Offset n is created at n.
    for offset in 0..20 {
        let row = rows([offset], 1);
        match offset {
            12 | 13 => store.upsert_failed(&ledger, &row, offset).await.unwrap(),
            _ => store.insert_received(&ledger, &row, offset).await.unwrap(),
        }
    }
    store.pass_failed(&ledger, &at([12]), 50).await.unwrap();
    store
        .settle(&ledger, &at([14]), Settlement::Unknown, 50, 50)
        .await
        .unwrap();
    let ranges = [range(0, 12), range(16, 20)];
    store.succeed(&ledger, &ranges, 50).await.unwrap();
    assert_eq!(store.prune(&ledger, 2..18, 0).await.unwrap(), 0);
    assert_eq!(store.prune(&ledger, 2..18, 7).await.unwrap(), 7);
    assert_eq!(harness.rows(TABLE).await.len(), 13);
    assert_eq!(store.prune(&ledger, 2..18, 7).await.unwrap(), 5);
    assert_eq!(store.prune(&ledger, 2..18, 7).await.unwrap(), 0);
    let left = harness.rows(TABLE).await;
    let left: Vec<_> = left.iter().map(|row| row.source_offset).collect();
    assert_eq!(left, [0, 1, 12, 13, 14, 15, 18, 19]);
}
