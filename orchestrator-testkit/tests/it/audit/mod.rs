//! The auditor on a real Kafka: what went well is clean, and what was done badly is found.

mod following;
mod pair;

use std::time::Duration;

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::audit::{
    AuditError, Client, Cluster, Finding, Identity, Kind, Ledger, Start, audit,
};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::Ending;
use rdkafka::producer::Producer;
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};

use pair::{Pair, begun, name};

const MINUTE: Duration = Duration::from_secs(60);
const LEDGER: &str = include_str!("../../../../migrations/sqlite/0001_event_failures.sql");

#[tokio::test]
async fn audit_of_a_sound_pair_is_clean_whatever_was_aborted() {
    let pair = Pair::new(20).await;
    pair.come_out(0..7, Ending::Commit).await;
    pair.come_out(7..12, Ending::Abort).await;
    pair.dead_letter(0, 7).await;
    pair.dead_letter(1, 7).await;
    pair.come_out(8..18, Ending::Commit).await;
    pair.come_out(18..20, Ending::Abort).await;
    pair.commit(18);
    let verdict = pair.audit().await;
    Pair::assert_found(&verdict, &[]);
    let counts = verdict.counts;
    assert_eq!((counts.records, counts.waiting), (36, 4));
    assert_eq!((counts.came_out, counts.failed), (34, 2));
    assert_eq!((counts.outputs, counts.dead_letters), (34, 2));
}

/// A bug of the auditor itself.
#[tokio::test]
async fn planted_in_the_auditor_reading_what_was_aborted_is_found() {
    let pair = Pair::new(4).await;
    pair.come_out(0..2, Ending::Abort).await;
    pair.come_out(0..4, Ending::Commit).await;
    pair.commit(4);
    let verdict = pair.audit_with(Client::new(pair.bootstrap)).await;
    Pair::assert_found(&verdict, &[]);
    let client = Client::new(pair.bootstrap).planted_reading_aborted();
    let verdict = pair.audit_with(client).await;
    let doubled = |found: &Finding| found.what == Kind::Doubled.what();
    assert!(verdict.findings.iter().any(doubled), "{verdict:?}");
}

#[tokio::test]
async fn partitions_that_are_added_are_noticed_at_once() {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let admin = Admin::new(bootstrap).unwrap();
    let topic = fresh("grows");
    admin.create_topic(&topic, 2, &[]).await.unwrap();
    let client = Client::new(bootstrap).patience(Duration::from_secs(5));
    let cluster = Cluster::new(&client, "nobody").unwrap();
    let both = [Isolation::Committed, Isolation::Uncommitted];
    for isolation in both {
        assert_eq!(cluster.ends(&topic, isolation).unwrap().len(), 2);
    }
    admin.grow_topic(&topic, 3).await.unwrap();
    for isolation in both {
        wait::until("the new partition is there", MINUTE, async || {
            cluster.ends(&topic, isolation).unwrap().len() == 3
        })
        .await
        .unwrap();
        assert!(cluster.committed(&topic, isolation).unwrap().is_empty());
    }
}

#[tokio::test]
async fn audit_finds_what_is_lost_doubled_strange_and_out_of_order() {
    let pair = Pair::new(10).await;
    pair.come_out(0..4, Ending::Commit).await;
    // Record 4 of partition 0 is aborted, and passed nevertheless.
    let names = vec![name(0, 4)];
    pair.write_outputs(names, Ending::Abort).await;
    let names = [(1, 4), (1, 4), (0, 6), (0, 5), (1, 5), (1, 6), (1, 99)];
    let names = names.map(|(partition, n)| name(partition, n)).to_vec();
    pair.write_outputs(names, Ending::Commit).await;
    pair.commit(7);
    let expected = [
        (Kind::Lost, 1),
        (Kind::Doubled, 1),
        (Kind::OutOfOrder, 1),
        (Kind::Stranger, 1),
    ];
    Pair::assert_found(&pair.audit().await, &expected);
}

#[tokio::test]
async fn audit_finds_what_came_out_beyond_the_committed_offset() {
    let pair = Pair::new(10).await;
    pair.come_out(0..8, Ending::Commit).await;
    pair.dead_letter(1, 8).await;
    pair.commit(7);
    Pair::assert_found(&pair.audit().await, &[(Kind::Beyond, 3)]);
    pair.commit(8);
    Pair::assert_found(&pair.audit().await, &[(Kind::Beyond, 1)]);
}

#[tokio::test]
async fn audit_finds_a_transaction_that_is_left_open() {
    let pair = Pair::new(3).await;
    pair.come_out(0..2, Ending::Commit).await;
    pair.commit(2);
    let producer = begun(&pair, &name(0, 2));
    let scope = pair.scope(Client::new(pair.bootstrap).patience(Duration::from_secs(10)));
    let open = tokio::task::spawn_blocking(|| audit(scope)).await.unwrap();
    Pair::assert_found(&open.unwrap(), &[(Kind::OpenTransaction, 1)]);
    producer.abort_transaction(MINUTE).unwrap();
    Pair::assert_found(&pair.audit().await, &[]);
}

#[tokio::test]
async fn audit_takes_failures_from_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let mut ledger = SqliteConnection::connect(&format!("{url}?mode=rwc"))
        .await
        .unwrap();
    ledger.execute(sqlx::raw_sql(LEDGER)).await.unwrap();
    let pair = Pair::new(5).await;
    pair.come_out(0..4, Ending::Commit).await;
    pair.commit(5);
    for (partition, status) in [(0, "FAILED"), (1, "RECEIVED")] {
        let insert = format!(
            "INSERT INTO event_failures (cluster_id, consumer_group, source_topic, source_partition, source_offset, \
             record_timestamp_ms, headers, status, attempts, dedup_key, dead_lettered, fence, created_at, updated_at) \
             VALUES ('c', '{}', '{}', {partition}, 4, 0, x'5b5d', '{status}', 1, 'k', 0, 0, 0, 0)",
            pair.group, pair.source
        );
        let insert = sqlx::raw_sql(AssertSqlSafe(insert));
        ledger.execute(insert).await.unwrap();
    }
    let with_ledger = async || {
        // So long a row may be late.
        let client = Client::new(pair.bootstrap).patience(Duration::from_secs(10));
        let mut scope = pair.scope(client);
        scope.dead_letters.clear();
        scope.ledger = Some(Ledger::new(&url, "event_failures").unwrap());
        let done = tokio::task::spawn_blocking(|| audit(scope));
        done.await.unwrap().unwrap()
    };
    // RECEIVED says nothing of what became of the record.
    let verdict = with_ledger().await;
    Pair::assert_found(&verdict, &[(Kind::Lost, 1)]);
    assert_eq!(verdict.counts.failed, 1);
    let update = "UPDATE event_failures SET status = 'FAILED', passed_at = 1";
    ledger.execute(sqlx::raw_sql(update)).await.unwrap();
    let verdict = with_ledger().await;
    Pair::assert_found(&verdict, &[]);
    assert_eq!(verdict.counts.ledger_rows, 2);
}

#[tokio::test]
async fn audit_cannot_be_made_of_what_is_not_there() {
    let pair = Pair::new(5).await;
    let run = async |spoil: &dyn Fn(&mut orchestrator_testkit::audit::Scope)| {
        let mut scope = pair.scope(Client::new(pair.bootstrap));
        spoil(&mut scope);
        tokio::task::spawn_blocking(|| audit(scope)).await.unwrap()
    };
    let missing = run(&|scope| scope.targets = vec!["nowhere".to_owned()]).await;
    assert!(matches!(missing, Err(AuditError::NoTopic(topic)) if topic == "nowhere"));
    // All values of a partition differ, but not those of two.
    let same = run(&|scope| scope.source_id = Identity::Value).await;
    assert!(
        matches!(same, Err(AuditError::NotUnique { .. })),
        "{same:?}"
    );

    let admin = orchestrator_testkit::admin::Admin::new(pair.bootstrap).unwrap();
    pair.come_out(0..5, Ending::Commit).await;
    pair.commit(5);
    admin.delete_records(&pair.source, 1, 3).await.unwrap();
    let gone = run(&|_| {}).await;
    assert!(
        matches!(gone, Err(AuditError::Truncated { begins: 3, .. })),
        "{gone:?}"
    );
    let from = Start::Offsets([((pair.source.clone(), 0), 1)].into());
    let verdict = run(&|scope| scope.start = from.clone()).await.unwrap();
    Pair::assert_found(&verdict, &[]);
    assert_eq!((verdict.counts.records, verdict.counts.older), (6, 4));
}
