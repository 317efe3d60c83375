//! The database alone: the statements of the ledger's table without Kafka and without the runtime, as somebody would
//! write them by hand who knows PostgreSQL. Shares no code with the runtime but the table's definition.

use std::time::Instant;

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::scenario::Raw;

const TABLE: &str = include_str!("../../../migrations/postgres/0001_event_failures.sql");
const CHUNK: i64 = 1000;

const INSERT: &str = "INSERT INTO event_failures (cluster_id, consumer_group, source_topic, source_partition, \
    source_offset, record_timestamp_ms, message_key, headers, status, attempts, dedup_key, dead_lettered, fence, \
    created_at, updated_at) \
    SELECT $1, $2, $3, p, o, t, k, h, 'RECEIVED', 0, d, false, $4, $4, $4 \
    FROM UNNEST($5::int[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bytea[], $10::text[]) AS r(p, o, t, k, h, d) \
    ON CONFLICT DO NOTHING";
const UPDATE: &str = "UPDATE event_failures SET status = 'SUCCESS', passed_at = $5, updated_at = $5 \
    WHERE cluster_id = $1 AND consumer_group = $2 AND source_topic = $3 AND source_partition = $4 \
    AND source_offset BETWEEN $6 AND $7 AND status = 'RECEIVED'";

/// Records a second of insert and update.
pub(super) fn rate(kind: Raw, url: &str, records: u64) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await?;
        connection.execute(AssertSqlSafe(TABLE)).await?;
        let chunk = match kind {
            Raw::Pair => CHUNK,
            Raw::Serial => 1,
        };
        let started = Instant::now();
        for at in (0..i64::try_from(records)?).step_by(usize::try_from(chunk)?) {
            insert(&mut connection, at, chunk).await?;
            update(&mut connection, at, chunk).await?;
        }
        Ok(records as f64 / started.elapsed().as_secs_f64())
    })
}

const CLUSTER: &str = "cmJZ0aq5Qk2oBrtP0zj3tQ";
const GROUP: &str = "ledger-0000000000000-outbox-postgres-0";
const TOPIC: &str = "ledger-0000000000000-clean";
const NOW_MS: i64 = 1_767_225_600_000;

async fn insert(connection: &mut PgConnection, from: i64, count: i64) -> Result<()> {
    let offsets: Vec<i64> = (from..from + count).collect();
    let partitions = vec![0_i32; offsets.len()];
    let times: Vec<i64> = offsets.iter().map(|offset| NOW_MS + offset).collect();
    let keys: Vec<Vec<u8>> = offsets
        .iter()
        .map(|offset| format!("customer-{offset:06}").into_bytes())
        .collect();
    let headers = vec![b"[]".to_vec(); offsets.len()];
    let dedup_keys: Vec<String> = offsets
        .iter()
        .map(|offset| format!("{TOPIC}-0-{offset}"))
        .collect();
    sqlx::query(INSERT)
        .bind(CLUSTER)
        .bind(GROUP)
        .bind(TOPIC)
        .bind(NOW_MS)
        .bind(partitions)
        .bind(offsets)
        .bind(times)
        .bind(keys)
        .bind(headers)
        .bind(dedup_keys)
        .execute(connection)
        .await?;
    Ok(())
}

async fn update(connection: &mut PgConnection, from: i64, count: i64) -> Result<()> {
    sqlx::query(UPDATE)
        .bind(CLUSTER)
        .bind(GROUP)
        .bind(TOPIC)
        .bind(0_i32)
        .bind(NOW_MS)
        .bind(from)
        .bind(from + count - 1)
        .execute(connection)
        .await?;
    Ok(())
}
