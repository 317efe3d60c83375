//! What is newer stays: repeats, older and newer batches, and what became of records, in any order.

use orchestrator_core::{Settlement, SourcePartition};

use super::*;

pub(crate) async fn a_repeat_changes_nothing<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    let batch = taken(0..3, 1);
    store.insert_received(&ledger, &batch, 1).await.unwrap();
    let once = harness.rows(TABLE).await;
    store.insert_received(&ledger, &batch, 2).await.unwrap();
    assert_eq!(harness.rows(TABLE).await, once);

    for _ in 0..2 {
        store
            .upsert_failed(&ledger, &rows([0], 1), 3)
            .await
            .unwrap();
        store.pass_failed(&ledger, &at([0]), 4).await.unwrap();
        store.succeed(&ledger, &[range(0, 3)], 5).await.unwrap();
    }
    store.insert_received(&ledger, &batch, 6).await.unwrap();
    store.pass_failed(&ledger, &at(0..3), 7).await.unwrap();
    let expected = [
        "0 FAILED passed 4 fence 1",
        "1 SUCCESS passed 5 fence 1",
        "2 SUCCESS passed 5 fence 1",
    ];
    assert_eq!(harness.summary().await, expected);
}

pub(crate) async fn an_older_fence_never_overwrites<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .upsert_failed(&ledger, &rows(0..3, 100), 1)
        .await
        .unwrap();
    store.pass_failed(&ledger, &at([1]), 101).await.unwrap();
    store.succeed(&ledger, &[range(2, 3)], 102).await.unwrap();
    let before = harness.rows(TABLE).await;
    let mut older = rows(0..3, 99);
    older[0].attempts = 9;
    store.upsert_failed(&ledger, &older, 200).await.unwrap();
    store.insert_received(&ledger, &older, 200).await.unwrap();
    assert_eq!(harness.rows(TABLE).await, before);
}

pub(crate) async fn a_newer_fence_begins_anew<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .insert_received(&ledger, &taken(0..1, 100), 1)
        .await
        .unwrap();
    store
        .upsert_failed(&ledger, &rows(1..4, 100), 1)
        .await
        .unwrap();
    store.pass_failed(&ledger, &at([2]), 101).await.unwrap();
    store.succeed(&ledger, &[range(3, 4)], 102).await.unwrap();
    store
        .insert_received(&ledger, &taken(0..4, 101), 200)
        .await
        .unwrap();
    let statuses = |rows: &[Stored]| -> Vec<_> {
        let state = |row: &Stored| (row.status.clone(), row.passed_at, row.fence);
        rows.iter().map(state).collect()
    };
    let found = harness.rows(TABLE).await;
    assert_eq!(statuses(&found), vec![("RECEIVED".into(), None, 101); 4]);
    assert!(
        found
            .iter()
            .all(|row| (row.created_at, row.updated_at) == (1, 200))
    );

    let mut failed = rows(0..4, 102);
    failed[0].attempts = 7;
    failed[1].passed_at_ms = Some(150);
    store.upsert_failed(&ledger, &failed, 300).await.unwrap();
    let expected = [
        "0 FAILED provisional fence 102",
        "1 FAILED passed 150 fence 102",
        "2 FAILED provisional fence 102",
        "3 FAILED provisional fence 102",
    ];
    assert_eq!(harness.summary().await, expected);
    let first = &harness.rows(TABLE).await[0];
    assert_eq!((first.created_at, first.attempts), (1, 7));
    // What was passed begins anew too, and so does what was resolved.
    store
        .upsert_failed(&ledger, &rows(1..4, 103), 400)
        .await
        .unwrap();
    store.succeed(&ledger, &[range(1, 2)], 410).await.unwrap();
    store
        .upsert_failed(&ledger, &rows(1..2, 104), 420)
        .await
        .unwrap();
    let expected = [
        "0 FAILED provisional fence 102",
        "1 FAILED provisional fence 104",
        "2 FAILED provisional fence 103",
        "3 FAILED provisional fence 103",
    ];
    assert_eq!(harness.summary().await, expected);
}

pub(crate) async fn the_same_fence_keeps_what_is_known<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    let batch = rows(0..3, 100);
    store
        .insert_received(&ledger, &taken(0..3, 100), 1)
        .await
        .unwrap();
    store.upsert_failed(&ledger, &batch[1..2], 1).await.unwrap();
    store.pass_failed(&ledger, &at([1]), 103).await.unwrap();
    store.succeed(&ledger, &[range(2, 3)], 104).await.unwrap();
    // A RECEIVED row fails; a passed failure stays passed; a success stays one.
    let mut again = batch.clone();
    again[1].attempts = 9;
    store.upsert_failed(&ledger, &again, 105).await.unwrap();
    let expected = [
        "0 FAILED provisional fence 100",
        "1 FAILED passed 103 fence 100",
        "2 SUCCESS passed 104 fence 100",
    ];
    assert_eq!(harness.summary().await, expected);
    assert_eq!(harness.rows(TABLE).await[1].attempts, 9);
    // One that comes as passed is passed.
    again[0].passed_at_ms = Some(110);
    store
        .upsert_failed(&ledger, &again[..1], 111)
        .await
        .unwrap();
    assert_eq!(harness.summary().await[0], "0 FAILED passed 110 fence 100");
}

pub(crate) async fn what_became_of_records_changes_nothing_newer<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .upsert_failed(&ledger, &rows(0..2, 100), 1)
        .await
        .unwrap();
    store
        .insert_received(&ledger, &taken(2..3, 100), 1)
        .await
        .unwrap();
    let before = harness.rows(TABLE).await;
    store.pass_failed(&ledger, &at([0]), 99).await.unwrap();
    store.succeed(&ledger, &[range(1, 3)], 99).await.unwrap();
    assert_eq!(harness.rows(TABLE).await, before);
    // In the same millisecond it may well be about this batch.
    store.pass_failed(&ledger, &at([0]), 100).await.unwrap();
    store.succeed(&ledger, &[range(1, 3)], 100).await.unwrap();
    let expected = [
        "0 FAILED passed 100 fence 100",
        "1 SUCCESS passed 100 fence 100 resolved 100",
        "2 SUCCESS passed 100 fence 100",
    ];
    assert_eq!(harness.summary().await, expected);
}

pub(crate) async fn a_failure_that_succeeds_later_is_resolved<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .upsert_failed(&ledger, &rows(0..2, 1), 1)
        .await
        .unwrap();
    store.succeed(&ledger, &[range(0, 1)], 5).await.unwrap();
    // The other is taken again before it succeeds.
    store
        .insert_received(&ledger, &taken(1..2, 6), 6)
        .await
        .unwrap();
    store.succeed(&ledger, &[range(1, 2)], 7).await.unwrap();
    let expected = [
        "0 SUCCESS passed 5 fence 1 resolved 5",
        "1 SUCCESS passed 7 fence 6 resolved 7",
    ];
    assert_eq!(harness.summary().await, expected);
    let found = harness.rows(TABLE).await;
    assert_eq!(found[0].error_message.as_deref(), Some("no such sku"));
    assert_eq!(found[0].updated_at, 5);
}

pub(crate) async fn only_what_is_open_succeeds<H: Harness>() {
    let (harness, store) = H::ready().await;
    let ledger = identity();
    store
        .upsert_failed(&ledger, &rows(0..1, 1), 1)
        .await
        .unwrap();
    store
        .insert_received(&ledger, &taken(1..3, 1), 1)
        .await
        .unwrap();
    store.pass_failed(&ledger, &at(0..3), 2).await.unwrap();
    store
        .settle(&ledger, &at([1]), Settlement::Unknown, 2, 3)
        .await
        .unwrap();
    for at_ms in [4, 5] {
        store.succeed(&ledger, &[range(0, 3)], at_ms).await.unwrap();
    }
    let expected = [
        "0 FAILED passed 2 fence 1",
        "1 SUCCESS passed 4 fence 1",
        "2 SUCCESS passed 4 fence 1",
    ];
    assert_eq!(harness.summary().await, expected);
}

/// Everything that may be done to [`orders`] of [`identity`].
async fn everything(store: &impl FailureStore, ledger: &LedgerIdentity) {
    let all = [range(0, 100)];
    store.pass_failed(ledger, &at([0]), 50).await.unwrap();
    for settlement in [Settlement::Stale, Settlement::Unknown, Settlement::Success] {
        store
            .settle(ledger, &at([2]), settlement, 50, 50)
            .await
            .unwrap();
    }
    store.succeed(ledger, &all, 50).await.unwrap();
    assert_eq!(store.prune(ledger, 0..50, 100).await.unwrap(), 2);
}

/// Two failed and a received row in each of these ledgers and partitions; only one of them is worked on.
async fn left_alone<H: Harness>(others: Vec<(LedgerIdentity, SourcePartition)>) {
    let (harness, store) = H::ready().await;
    let all = [vec![(identity(), orders())], others].concat();
    let count = all.len();
    for (ledger, partition) in all {
        let of = |mut row: LedgerRow| {
            row.position.partition = partition.clone();
            row
        };
        let failed: Vec<_> = rows(0..2, 1).into_iter().map(of).collect();
        let taken: Vec<_> = taken(2..3, 1).into_iter().map(of).collect();
        store.upsert_failed(&ledger, &failed, 1).await.unwrap();
        store.insert_received(&ledger, &taken, 1).await.unwrap();
    }
    let mine = |row: &Stored| {
        row.cluster_id == "c"
            && row.consumer_group == "g"
            && (row.source_topic.as_str(), row.source_partition) == ("orders", 0)
    };
    let before = harness.rows(TABLE).await;
    assert_eq!(before.len(), 3 * count, "as many rows as were inserted");
    assert_eq!(
        provisional(&store, &identity(), orders().at(0), 99).await,
        [0, 1]
    );
    let page = store.received_page(&identity(), &orders().at(0), 99).await;
    assert_eq!(page.unwrap().rows.len(), 1);
    everything(&store, &identity()).await;
    let after = harness.rows(TABLE).await;
    let of_others =
        |rows: &[Stored]| -> Vec<_> { rows.iter().filter(|row| !mine(row)).cloned().collect() };
    assert_eq!(of_others(&after), of_others(&before));
    let left: Vec<_> = after.iter().filter(|row| mine(row)).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

fn group(cluster_id: &str, consumer_group: &str) -> LedgerIdentity {
    LedgerIdentity {
        cluster_id: cluster_id.into(),
        consumer_group: consumer_group.into(),
    }
}

pub(crate) async fn others_are_left_alone<H: Harness>() {
    left_alone::<H>(vec![
        (group("c", "other"), orders()),
        (group("other", "g"), orders()),
        (identity(), SourcePartition::new("orders", 1)),
        (identity(), SourcePartition::new("order", 0)),
    ])
    .await;
}

/// Databases are fond of taking names for the same that are not.
pub(crate) async fn names_are_told_apart_by_every_character<H: Harness>() {
    let groups = ["G", "g ", "g\t", "ǵ", "ｇ", "g\u{200B}", ""];
    let topics = ["Orders", "orders.", "orders_", "orders-"];
    let groups = groups.map(|name| (group("c", name), orders()));
    let topics = topics.map(|topic| (identity(), SourcePartition::new(topic, 0)));
    left_alone::<H>([&groups[..], &topics[..], &[(group("C", "g"), orders())]].concat()).await;
}
