//! Tests of how PostgreSQL goes about the store's statements: by which index, whatever is known of the table, and at
//! what price.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use sqlx::{AssertSqlSafe, PgConnection};

use super::super::super::fake_store::identity;
use super::super::conformance::{Harness, range, rows, taken};
use super::tests::Schema;
use super::*;

const BATCH: i64 = ROWS_PER_STATEMENT as i64;

async fn fill(store: &PostgresStore, count: i64) {
    for from in (0..count).step_by(ROWS_PER_STATEMENT) {
        let batch = taken(from..from + BATCH, 1);
        store.insert_received(&identity(), &batch, 1).await.unwrap();
    }
}

async fn sql(connection: &mut PgConnection, text: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(connection).await;
    done.unwrap();
}

async fn texts(connection: &mut PgConnection, text: &str) -> Vec<String> {
    let rows = sqlx::query_scalar(AssertSqlSafe(text)).persistent(false);
    rows.fetch_all(connection).await.unwrap()
}

/// Every statement that looks for rows of a partition, with arguments and what its plan must say.
fn lookups(statements: &Statements) -> [(&str, &str, &str); 6] {
    let offset = "(source_offset = o.o))";
    let from = "(source_offset >= $5))";
    let range = "(source_offset >= $6) AND (source_offset <= $7))";
    [
        (&statements.succeed_range, "9, 10, 500, '{17}'", range),
        (&statements.succeed_offsets, "9, '{10,20000}'", offset),
        (&statements.pass_failed, "9, '{10,20000}'", offset),
        (
            &statements.settle,
            "9, '{10,20000}', 'UNKNOWN', 9, null, null, 9",
            offset,
        ),
        (&statements.page, "0, 1000", from),
        (&statements.provisional, "0, 1000", from),
    ]
}

/// Plans each statement, as a connection does when it meets it first.
async fn prepare(connection: &mut PgConnection, store: &PostgresStore) {
    for (name, (text, arguments, _)) in (0..).zip(lookups(&store.statements)) {
        sql(connection, &format!("PREPARE p{name} AS {text}")).await;
        plan(connection, name, arguments).await;
    }
}

async fn plan(connection: &mut PgConnection, name: usize, arguments: &str) -> String {
    let explain = format!("EXPLAIN EXECUTE p{name}('c', 'g', 'orders', 0, {arguments})");
    texts(connection, &explain).await.join("\n")
}

async fn check(connection: &mut PgConnection, store: &PostgresStore, when: &str) {
    let key = "(cluster_id = $1) AND (consumer_group = $2) AND (source_topic = $3) AND (source_partition = $4) AND";
    for (name, (text, arguments, condition)) in (0..).zip(lookups(&store.statements)) {
        let plan = plan(connection, name, arguments).await;
        let whole_key = format!("Index Cond: ({key} {condition}");
        assert!(plan.contains(&whole_key), "{when}: {text}\n{plan}");
        assert!(!plan.contains("Seq Scan"), "{when}: {text}\n{plan}");
        // The unique index, but for what only failures can be.
        let index = match text == &*store.statements.provisional {
            true => "_idx on",
            false => "_key on",
        };
        assert!(plan.contains(index), "{when}: {text}\n{plan}");
    }
}

#[tokio::test]
async fn rows_are_found_by_the_whole_key_whatever_is_known_of_the_table() {
    let (schema, store) = Schema::ready().await;
    let mut admin = schema.connect().await;
    sql(
        &mut admin,
        "ALTER TABLE event_failures SET (autovacuum_enabled = off)",
    )
    .await;
    let mut old = store.connections.lease().await.unwrap();
    prepare(old.connection(), &store).await;
    fill(&store, 20_000).await;
    store
        .upsert_failed(&identity(), &rows(0..100, 1), 1)
        .await
        .unwrap();
    check(old.connection(), &store, "planned while it was empty").await;
    let mut new = store.connections.lease().await.unwrap();
    prepare(new.connection(), &store).await;
    check(new.connection(), &store, "never analysed").await;
    sql(&mut admin, "ANALYZE event_failures").await;
    check(old.connection(), &store, "analysed").await;
}

#[tokio::test]
async fn a_success_leaves_the_indexes_alone() {
    let (schema, store) = Schema::ready().await;
    fill(&store, 10_000).await;
    let mut admin = schema.connect().await;
    let mut size = async || -> i64 {
        let size = "SELECT pg_indexes_size('event_failures')::text";
        texts(&mut admin, size).await[0].parse().unwrap()
    };
    let before = size().await;
    for from in (0..10_000).step_by(ROWS_PER_STATEMENT) {
        let ranges = [range(from, from + BATCH)];
        store.succeed(&identity(), &ranges, 2).await.unwrap();
    }
    let grown = size().await - before;
    assert!(grown * 10 < before, "{grown} of {before} bytes");
}

/// `cargo test --release -p orchestrator-runtime --lib -- --ignored --nocapture how_fast_it_is`
#[tokio::test]
#[ignore = "a measurement"]
async fn how_fast_it_is() {
    const BATCHES: i64 = 100;
    let (_schema, store) = Schema::ready().await;
    let ledger = identity();
    let told = |what: &str, started: Instant| {
        let rate = (BATCHES * BATCH) as f64 / started.elapsed().as_secs_f64();
        println!("{what:28} {rate:>9.0} rows/s in batches of {BATCH}");
    };
    let batches: Vec<_> = (0..BATCHES)
        .map(|batch| taken(batch * BATCH..(batch + 1) * BATCH, 1))
        .collect();
    let started = Instant::now();
    for batch in &batches {
        store.insert_received(&ledger, batch, 1).await.unwrap();
    }
    told("insert_received", started);
    let started = Instant::now();
    for batch in 0..BATCHES {
        let ranges = [range(batch * BATCH, (batch + 1) * BATCH)];
        store.succeed(&ledger, &ranges, 2).await.unwrap();
    }
    told("succeed", started);
    let started = Instant::now();
    for (number, batch) in (0..).zip(&batches) {
        let mut batch = batch.clone();
        for row in &mut batch {
            row.position.partition.partition = 1;
        }
        let mut ranges = [range(number * BATCH, (number + 1) * BATCH)];
        ranges[0].partition.partition = 1;
        store.insert_received(&ledger, &batch, 1).await.unwrap();
        store.succeed(&ledger, &ranges, 2).await.unwrap();
    }
    told("insert_received + succeed", started);
    let failed: Vec<_> = (0..BATCHES)
        .map(|batch| rows((BATCHES + batch) * BATCH..(BATCHES + batch + 1) * BATCH, 1))
        .collect();
    let started = Instant::now();
    for batch in &failed {
        store.upsert_failed(&ledger, batch, 1).await.unwrap();
    }
    told("upsert_failed, new", started);
    let started = Instant::now();
    for batch in &failed {
        let positions: Vec<_> = batch.iter().map(|row| row.position.clone()).collect();
        store.pass_failed(&ledger, &positions, 2).await.unwrap();
    }
    told("pass_failed", started);
    let one = |offset: i64| {
        let (store, ledger) = (&store, &ledger);
        async move {
            let row = taken([2_000_000 + offset], 1);
            store.insert_received(ledger, &row, 1).await.unwrap();
            let ranges = [range(2_000_000 + offset, 2_000_001 + offset)];
            store.succeed(ledger, &ranges, 2).await.unwrap();
        }
    };
    let started = Instant::now();
    for offset in 0..2000 {
        one(offset).await;
    }
    let serial = 2000.0 / started.elapsed().as_secs_f64();
    println!("a row by itself, serial      {serial:>9.0} pairs/s");
    let started = Instant::now();
    let work = (0..4).map(|worker| async move {
        for offset in 0..1000 {
            one(10_000 * (worker + 1) + offset).await;
        }
    });
    futures_util::future::join_all(work).await;
    let four = 4000.0 / started.elapsed().as_secs_f64();
    println!("a row by itself, four at once {four:>8.0} pairs/s");
}
