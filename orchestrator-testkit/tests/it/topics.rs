//! Topics, records in, records out, on the shared broker.

use std::time::Duration;

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::reader::{Follower, Isolation, ReadError, Until, read_all};
use orchestrator_testkit::writer::{Ending, WriteRecord, write, write_transaction};

const MINUTE: Duration = Duration::from_secs(60);

fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = WriteRecord> + Send + 'static {
    range.map(|i| {
        WriteRecord::new(format!("value {i}"))
            .key(format!("key {}", i % 10))
            .timestamp(1_000 + i as i64)
    })
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let admin = Admin::new(bootstrap).unwrap();
    let topic = fresh("round-trip");
    admin.create_topic(&topic, 3, &[]).await.unwrap();
    assert_eq!(admin.partitions(&topic).await.unwrap(), 3);

    let records = numbered(0..1_000).map(|r| r.header("h", "1").header("h", "2"));
    let positions = write(bootstrap, &topic, records).await.unwrap();
    let read = read_all(
        bootstrap,
        &[&topic],
        Isolation::Committed,
        Until::End,
        MINUTE,
    )
    .await
    .unwrap();

    assert_eq!(read.len(), 1_000);
    for record in &read {
        let i: usize = record
            .value_text()
            .strip_prefix("value ")
            .unwrap()
            .parse()
            .unwrap();
        let position = positions[i];
        assert_eq!(
            (record.partition, record.offset),
            (position.partition, position.offset)
        );
        assert_eq!(record.key_text(), format!("key {}", i % 10));
        assert_eq!(record.timestamp, Some(1_000 + i as i64));
        assert_eq!(record.headers.len(), 2);
        assert_eq!(record.header("h"), Some("2"));
    }
    let ends = admin
        .end_offsets(&topic, Isolation::Committed)
        .await
        .unwrap();
    assert_eq!(ends.values().sum::<i64>(), 1_000);
}

#[tokio::test]
async fn a_topic_without_records_ends_at_once() {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let topic = fresh("empty");
    Admin::new(bootstrap)
        .unwrap()
        .create_topic(&topic, 2, &[])
        .await
        .unwrap();
    let read = read_all(
        bootstrap,
        &[&topic],
        Isolation::Committed,
        Until::End,
        MINUTE,
    )
    .await
    .unwrap();
    assert_eq!(read, []);
}

#[tokio::test]
async fn a_missing_topic_is_an_error() {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let topic = fresh("missing");
    let result = read_all(
        bootstrap,
        &[&topic],
        Isolation::Committed,
        Until::End,
        MINUTE,
    )
    .await;
    assert!(matches!(result, Err(ReadError::NoTopic(name)) if name == topic));
    assert!(write(bootstrap, &topic, numbered(0..1)).await.is_err());
}

#[tokio::test]
async fn an_aborted_transaction_is_invisible_to_a_committed_read() {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let topic = fresh("aborted");
    Admin::new(bootstrap)
        .unwrap()
        .create_topic(&topic, 1, &[])
        .await
        .unwrap();
    write_transaction(bootstrap, &topic, numbered(0..10), Ending::Commit)
        .await
        .unwrap();
    write_transaction(bootstrap, &topic, numbered(10..20), Ending::Abort)
        .await
        .unwrap();

    let count = async |isolation| {
        read_all(bootstrap, &[&topic], isolation, Until::End, MINUTE)
            .await
            .unwrap()
            .len()
    };
    assert_eq!(count(Isolation::Committed).await, 10);
    assert_eq!(count(Isolation::Uncommitted).await, 20);
}

#[tokio::test]
async fn an_open_transaction_is_the_end_for_a_committed_read() {
    use rdkafka::ClientConfig;
    use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

    let bootstrap = Kafka::shared().bootstrap_servers();
    let topic = fresh("open");
    let admin = Admin::new(bootstrap).unwrap();
    admin.create_topic(&topic, 1, &[]).await.unwrap();
    write(bootstrap, &topic, numbered(0..10)).await.unwrap();
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("transactional.id", fresh("open"))
        .create()
        .unwrap();
    producer.init_transactions(MINUTE).unwrap();
    producer.begin_transaction().unwrap();
    producer
        .send(BaseRecord::<(), str>::to(&topic).payload("hidden"))
        .unwrap();
    producer.flush(MINUTE).unwrap();
    write(bootstrap, &topic, numbered(10..15)).await.unwrap();

    let mut follower = Follower::new(bootstrap, &[&topic], Isolation::Committed);
    assert_eq!(follower.read(Until::End, MINUTE).await.unwrap().len(), 10);
    let ends = admin
        .end_offsets(&topic, Isolation::Committed)
        .await
        .unwrap();
    assert_eq!(ends[&0], 10);
    let ends = admin
        .end_offsets(&topic, Isolation::Uncommitted)
        .await
        .unwrap();
    assert_eq!(ends[&0], 16);

    producer.commit_transaction(MINUTE).unwrap();
    assert_eq!(follower.read(Until::End, MINUTE).await.unwrap().len(), 6);
    assert_eq!(follower.read(Until::End, MINUTE).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_follower_goes_on_over_several_topics() {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let admin = Admin::new(bootstrap).unwrap();
    let (first, second) = (fresh("follow"), fresh("follow"));
    admin.create_topic(&first, 2, &[]).await.unwrap();
    admin.create_topic(&second, 2, &[]).await.unwrap();
    let mut follower = Follower::new(bootstrap, &[&first, &second], Isolation::Committed);
    write(bootstrap, &first, numbered(0..30)).await.unwrap();
    assert_eq!(
        follower.read(Until::Count(20), MINUTE).await.unwrap().len(),
        20
    );
    write(bootstrap, &second, numbered(0..30)).await.unwrap();
    assert_eq!(follower.read(Until::End, MINUTE).await.unwrap().len(), 40);
    assert_eq!(
        follower.next(Duration::from_millis(50)).await.unwrap(),
        None
    );
    write(bootstrap, &second, numbered(30..31)).await.unwrap();
    assert_eq!(
        follower.next(MINUTE).await.unwrap().unwrap().value_text(),
        "value 30"
    );

    let late = follower
        .read(Until::Count(1), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(
        matches!(late, ReadError::Deadline { ref read, .. } if read.is_empty()),
        "{late}"
    );
}

#[tokio::test]
async fn offsets_of_groups_and_topics_can_be_looked_up_and_changed() {
    use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};

    let bootstrap = Kafka::shared().bootstrap_servers();
    let admin = Admin::new(bootstrap).unwrap();
    let (topic, group) = (fresh("offsets"), fresh("group"));
    admin.create_topic(&topic, 1, &[]).await.unwrap();
    write(bootstrap, &topic, numbered(0..10)).await.unwrap();
    assert!(admin.committed(&group, &topic).await.unwrap().is_empty());

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", &group)
        .create()
        .unwrap();
    let mut next = TopicPartitionList::new();
    next.add_partition_offset(&topic, 0, Offset::Offset(7))
        .unwrap();
    consumer.commit(&next, CommitMode::Sync).unwrap();
    assert_eq!(
        admin.committed(&group, &topic).await.unwrap(),
        [(0, 7)].into()
    );

    admin.grow_topic(&topic, 2).await.unwrap();
    admin.delete_records(&topic, 0, 4).await.unwrap();
    assert_eq!(
        admin.start_offsets(&topic).await.unwrap(),
        [(0, 4), (1, 0)].into()
    );
    let read = read_all(
        bootstrap,
        &[&topic],
        Isolation::Committed,
        Until::End,
        MINUTE,
    )
    .await
    .unwrap();
    assert_eq!(read.len(), 6);

    admin
        .configure_topic(&topic, &[("max.message.bytes", "100")])
        .await
        .unwrap();
    let large = vec![WriteRecord::new(
        vec![b'x'; 5_000]
            .into_iter()
            .enumerate()
            .map(|(i, _)| (i * 7919 % 251) as u8)
            .collect::<Vec<_>>(),
    )];
    assert!(write(bootstrap, &topic, large).await.is_err());

    drop(consumer);
    admin.delete_group(&group).await.unwrap();
    assert!(admin.committed(&group, &topic).await.unwrap().is_empty());
    admin.delete_topic(&topic).await.unwrap();
}
