//! A broker that goes, and comes back.

use std::time::{Duration, Instant};

use orchestrator_runtime::core::ports::{Committer, SliceFate};
use orchestrator_runtime::kafka::producer::KafkaProducer;
use orchestrator_runtime::kafka::transactor::TransactionalProducer;
use orchestrator_testkit::kafka::{Kafka, KafkaOptions};
use rdkafka::consumer::Consumer;

use super::bed::{Bed, LOOK_EVERY, MINUTE, client, unit, values};

#[tokio::test]
async fn a_broker_that_is_killed_and_restarted_loses_and_doubles_nothing() {
    let kafka = Kafka::start(KafkaOptions::new().local()).unwrap();
    let bed = Bed::new(kafka.bootstrap_servers(), &[]).await;
    let mut producer = KafkaProducer::new(bed.settings());
    producer.replace().unwrap();
    assert!(!producer.disconnected());

    let mut committer = bed.committer_with(client(&bed.bootstrap, "another"));
    let mut ready = committer.ready();
    ready.wait_for(|ready| *ready).await.unwrap();
    committer.submit(unit(vec![bed.slice(0, 0, values(0..100))]));
    assert_eq!(committer.report().await.fates, [SliceFate::Committed]);

    // A lone broker that dies before its commit markers are written may forget them (KAFKA-20734).
    let waiting = Instant::now();
    while bed.values().await.len() < 100 || bed.committed().await != [(0, 100)].into() {
        assert!(waiting.elapsed() < MINUTE, "the commit does not show");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    kafka.kill().unwrap();
    committer.submit(unit(vec![bed.slice(0, 100, values(100..200))]));
    let lost = Instant::now();
    while !producer.disconnected() {
        assert!(lost.elapsed() < MINUTE, "the lost connection is not seen");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    kafka.restart().unwrap();
    bed.membership.refresh(bed.consumer.group_metadata());

    // The unit is given back with a fate, and sent again as the worker would until it is committed.
    let (mut from, mut tries) = (100, 0);
    let mut report = committer.report().await;
    loop {
        assert_eq!(report.ended, None);
        match &report.fates[0] {
            SliceFate::Committed => break,
            SliceFate::Stuck { .. } | SliceFate::Stripped => {}
            SliceFate::Rewind { to } => from = *to,
            refused @ SliceFate::Refused { .. } => panic!("{refused:?}"),
        }
        tries += 1;
        assert!(tries < 20, "{report:?}");
        drop(bed.consumer.poll(Duration::from_millis(20)));
        bed.membership.refresh(bed.consumer.group_metadata());
        let skip = usize::try_from(from).unwrap();
        committer.submit(unit(vec![bed.slice(0, from, values(skip..200))]));
        report = committer.report().await;
    }
    let expected: Vec<_> = (0..200).map(|n| format!("value {n}")).collect();
    assert_eq!(bed.values().await, expected);
    assert_eq!(bed.committed().await, [(0, 200)].into());
    committer.close().await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_keeps_nobody_from_ending() {
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &[]).await;
    // Nothing listens on this port: it was ours a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = format!("127.0.0.1:{}", port.local_addr().unwrap().port());
    drop(port);
    let mut bed = bed;
    bed.bootstrap = nowhere;
    let mut committer = bed.committer();
    let error = committer
        .topic_facts(&bed.target.as_str().into())
        .await
        .unwrap_err();
    assert!(error.contains("ORCH_BOOTSTRAP_SERVERS"), "{error}");
    assert!(!*committer.ready().borrow());
    let closing = Instant::now();
    committer.close().await;
    println!("closed without a broker in {:?}", closing.elapsed());
    assert!(closing.elapsed() < Duration::from_secs(10));
}
