//! Twins, and a group that has moved on.

use orchestrator_runtime::core::ports::{SessionFailure, SliceFate};
use orchestrator_runtime::kafka::producer::KafkaProducer;
use orchestrator_runtime::kafka::transactor::{TransactionalProducer, TxnClass, TxnError};
use orchestrator_testkit::kafka::Kafka;
use rdkafka::consumer::Consumer;

use super::bed::{Bed, member, owned, poll_until, unit, values};

#[tokio::test]
async fn a_twin_fences_and_its_own_work_stands() {
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &[]).await;
    let mut transactor = bed.transactor(bed.settings());
    let mut first = unit(vec![bed.slice(0, 0, values(0..3))]);
    assert_eq!(
        transactor.commit(&mut first, &mut ()).0,
        [SliceFate::Committed]
    );

    let mut twin = bed.transactor(bed.settings());
    twin.prepare().unwrap();
    let mut second = unit(vec![bed.slice(0, 3, values(3..6))]);
    let (fates, ended) = transactor.commit(&mut second, &mut ());
    assert_eq!(fates, [SliceFate::Stripped]);
    assert!(
        matches!(ended, Some(SessionFailure::Fenced(_))),
        "{ended:?}"
    );

    let mut third = unit(vec![bed.slice(1, 0, values(6..9))]);
    assert_eq!(twin.commit(&mut third, &mut ()).0, [SliceFate::Committed]);
    assert_eq!(bed.committed().await, [(0, 3), (1, 3)].into());
    assert_eq!(bed.values().await.len(), 6);
}

/// At which call of a transaction the twin comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Send,
    Flush,
    SendOffsets,
    Commit,
}

#[tokio::test]
async fn a_twin_is_noticed_wherever_it_comes() {
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &[]).await;
    for moment in [
        Before::Send,
        Before::Flush,
        Before::SendOffsets,
        Before::Commit,
    ] {
        let mut producer = KafkaProducer::new(bed.settings());
        producer.replace().unwrap();
        let mut twin = KafkaProducer::new(bed.settings());
        let error = transaction(&bed, &mut producer, |now| {
            if now == moment {
                twin.replace().unwrap();
            }
        })
        .unwrap_err();
        assert_eq!(error.class, TxnClass::Fenced, "{moment:?}: {error}");
        transaction(&bed, &mut twin, |_| {}).unwrap();
    }
    assert_eq!(bed.values().await.len(), 4 * 3);
}

fn transaction(
    bed: &Bed,
    producer: &mut KafkaProducer,
    mut before: impl FnMut(Before),
) -> Result<(), TxnError> {
    producer.begin()?;
    before(Before::Send);
    for done in &bed.slice(0, 0, values(0..3)).done {
        let output = &done.fate.outputs()[0];
        producer.send(0, &done.record, output).unwrap();
    }
    before(Before::Flush);
    assert!(producer.flush()?.is_empty());
    before(Before::SendOffsets);
    producer.send_offsets(&[bed.next_offset(0, 3)], &bed.metadata())?;
    before(Before::Commit);
    producer.commit()
}

#[tokio::test]
async fn metadata_of_an_earlier_generation_is_not_taken() {
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &[]).await;
    let mut producer = KafkaProducer::new(bed.settings());
    producer.replace().unwrap();
    let stale = bed.metadata();
    let other = member(&bed.bootstrap, &bed.group);
    other.subscribe(&[&bed.source]).unwrap();
    poll_until(&[&bed.consumer, &other], || {
        owned(&other) > 0 && owned(&bed.consumer) + owned(&other) == 3
    });

    producer.begin().unwrap();
    assert!(producer.flush().unwrap().is_empty());
    let offsets = [bed.next_offset(0, 7)];
    let error = producer.send_offsets(&offsets, &stale).unwrap_err();
    assert_eq!(error.class, TxnClass::Membership, "{error}");
    producer.abort().unwrap();

    // The same producer goes on with fresh metadata.
    producer.begin().unwrap();
    producer.send_offsets(&offsets, &bed.metadata()).unwrap();
    producer.commit().unwrap();
    assert_eq!(bed.committed().await, [(0, 7)].into());

    // A member that has left.
    let left = other.group_metadata().unwrap();
    drop(other);
    producer.begin().unwrap();
    let error = producer.send_offsets(&offsets, &left).unwrap_err();
    assert_eq!(error.class, TxnClass::Membership, "{error}");
    producer.abort().unwrap();
}
