//! Outputs and offsets that appear together, or not at all.

use orchestrator_runtime::core::Output;
use orchestrator_runtime::core::Topic;
use orchestrator_runtime::core::ports::{Committer, SliceFate, TopicFacts};
use orchestrator_runtime::kafka::producer::KafkaProducer;
use orchestrator_runtime::kafka::transactor::TransactionalProducer;
use orchestrator_testkit::admin::fresh;
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::reader::Isolation;

use super::bed::{Bed, LOOK_EVERY, MINUTE, unit, values};

#[tokio::test]
async fn outputs_and_offsets_are_committed_together() {
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &[]).await;
    let mut committer = bed.committer();
    let own = Output::tombstone()
        .with_key("mine")
        .with_timestamp_ms(5)
        .with_header("h", "1");
    committer.submit(unit(vec![
        bed.slice(0, 0, values(0..2)),
        bed.slice(2, 0, vec![own, Output::new("last").without_key()]),
    ]));
    let report = committer.report().await;
    assert_eq!(report.fates, [SliceFate::Committed, SliceFate::Committed]);
    assert_eq!(report.ended, None);
    // Only a position.
    let mut remembered = bed.slice(1, 0, vec![]);
    remembered.next = 40;
    committer.submit(unit(vec![remembered]));
    assert_eq!(committer.report().await.fates, [SliceFate::Committed]);

    let seen = bed.seen(Isolation::Committed).await;
    assert_eq!(bed.values().await, ["value 0", "value 1", "", "last"]);
    assert_eq!(seen[1].key_text(), "key 1");
    assert_eq!(seen[1].timestamp, Some(1_001));
    assert_eq!(seen[1].headers.len(), 1);
    assert_eq!(seen[1].header("traceparent"), Some("00-trace"));
    assert_eq!((seen[2].key_text(), &seen[2].value), ("mine", &None));
    assert_eq!(seen[2].timestamp, Some(5));
    assert_eq!(seen[2].header("h"), Some("1"));
    assert_eq!(seen[3].key, None);
    assert_eq!(bed.committed().await, [(0, 2), (1, 40), (2, 2)].into());
    committer.close().await;
}

#[tokio::test]
async fn an_aborted_transaction_is_invisible() {
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &[]).await;
    let mut producer = KafkaProducer::new(bed.settings());
    producer.replace().unwrap();
    for (outputs, keep) in [(values(0..5), false), (values(5..10), true)] {
        let slice = bed.slice(0, 0, outputs);
        producer.begin().unwrap();
        for done in &slice.done {
            let output = &done.fate.outputs()[0];
            producer.send(0, &done.record, output).unwrap();
        }
        assert!(producer.flush().unwrap().is_empty());
        let offsets = [bed.next_offset(0, 5)];
        producer.send_offsets(&offsets, &bed.metadata()).unwrap();
        if keep {
            producer.commit().unwrap();
        } else {
            producer.abort().unwrap();
        }
    }
    let visible: Vec<_> = (5..10).map(|n| format!("value {n}")).collect();
    assert_eq!(bed.values().await, visible);
    assert_eq!(bed.seen(Isolation::Uncommitted).await.len(), 10);
    assert_eq!(bed.committed().await, [(0, 5)].into());
    assert!(!producer.disconnected());
}

#[tokio::test]
async fn a_topic_that_is_looked_up_is_not_created() {
    let bed = Bed::new(
        Kafka::shared().bootstrap_servers(),
        &[("max.message.bytes", "54321")],
    )
    .await;
    let mut committer = bed.committer();
    let facts = committer.topic_facts(&Topic::new(&bed.target)).await;
    let known = TopicFacts::Known {
        max_message_bytes: 54_321,
    };
    assert_eq!(facts, Ok(known));
    let later = Topic::from(fresh("later"));
    assert_eq!(committer.topic_facts(&later).await, Ok(TopicFacts::Missing));
    assert_eq!(bed.admin.partitions(&later).await.unwrap(), 0);
    let illegal = Topic::from("no such/name");
    assert_eq!(
        committer.topic_facts(&illegal).await,
        Ok(TopicFacts::Missing)
    );

    bed.admin.create_topic(&later, 1, &[]).await.unwrap();
    let found = async {
        while committer.topic_facts(&later).await == Ok(TopicFacts::Missing) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(MINUTE, found).await.unwrap();
    committer.close().await;
}
