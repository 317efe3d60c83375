//! Outputs that the broker, or librdkafka, does not take.

use orchestrator_runtime::core::Output;
use orchestrator_runtime::core::ports::{Committer, SliceFate};
use orchestrator_testkit::admin::fresh;
use orchestrator_testkit::kafka::Kafka;

use super::bed::{Bed, assert_refused, noise, unit, values};

#[tokio::test]
async fn an_oversize_output_is_refused_and_its_neighbours_go_on() {
    let limit = [("max.message.bytes", "2000")];
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &limit).await;
    let mut committer = bed.committer();
    committer.submit(unit(vec![
        bed.slice(0, 0, values(0..100)),
        bed.slice(1, 0, vec![Output::new(noise(5_000))]),
        bed.slice(1, 1, values(0..1)),
        bed.slice(2, 0, values(100..200)),
    ]));
    let report = committer.report().await;
    assert_eq!(report.fates[0], SliceFate::Committed);
    assert_refused(&report.fates[1], &bed.target, true);
    assert_eq!(report.fates[2], SliceFate::Stripped);
    assert_eq!(report.fates[3], SliceFate::Committed);

    // The same target partition, by a new producer.
    committer.submit(unit(vec![bed.slice(0, 100, values(200..300))]));
    assert_eq!(committer.report().await.fates, [SliceFate::Committed]);
    let expected: Vec<_> = (0..300).map(|n| format!("value {n}")).collect();
    assert_eq!(bed.values().await, expected);
    assert_eq!(bed.committed().await, [(0, 200), (2, 100)].into());
    committer.close().await;
}

#[tokio::test]
async fn no_neighbour_is_blamed_for_a_batch_that_is_too_large() {
    let limit = [("max.message.bytes", "2000")];
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &limit).await;
    // It is not told the limit: as if that had been lowered just now, or could not be read.
    let mut transactor = bed.transactor(bed.settings());
    let small = |range: std::ops::Range<usize>| {
        let noise = noise(40_000);
        range
            .map(|n| Output::new(noise[n * 300..(n + 1) * 300].to_vec()))
            .collect::<Vec<_>>()
    };
    let mut work = unit(vec![
        bed.slice(0, 0, small(0..50)),
        bed.slice(1, 0, vec![Output::new(noise(5_000))]),
        bed.slice(2, 0, small(50..100)),
    ]);
    let (fates, ended) = transactor.commit(&mut work, &mut ());
    assert_eq!(ended, None);
    assert_eq!(fates[0], SliceFate::Committed);
    assert_refused(&fates[1], &bed.target, true);
    assert_eq!(fates[2], SliceFate::Committed);
    assert_eq!(bed.values().await.len(), 100);
}

#[tokio::test]
async fn a_missing_topic_that_a_record_chose_is_its_own_failure() {
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &[]).await;
    let mut committer = bed.committer();
    let missing = fresh("missing");
    let elsewhere = |topic: &str| vec![Output::new("lost").with_topic(topic)];
    committer.submit(unit(vec![
        bed.slice(0, 0, values(0..3)),
        bed.slice(1, 0, elsewhere(&missing)),
        bed.slice(2, 0, elsewhere("an/illegal name")),
    ]));
    let report = committer.report().await;
    assert_eq!(report.fates[0], SliceFate::Committed);
    // It may be created yet; the other never.
    assert_refused(&report.fates[1], &missing, false);
    assert_refused(&report.fates[2], "an/illegal name", true);

    committer.submit(unit(vec![
        bed.slice(0, 3, values(3..6)),
        bed.slice(1, 0, elsewhere("a\0b")),
        bed.slice(2, 0, elsewhere(&"x".repeat(600))),
    ]));
    let report = committer.report().await;
    assert_eq!(report.fates[0], SliceFate::Committed);
    assert_refused(&report.fates[1], "a\0b", true);
    assert_refused(&report.fates[2], &"x".repeat(600), true);
    assert_eq!(bed.values().await.len(), 6);
    assert_eq!(bed.committed().await, [(0, 6)].into());
    assert_eq!(bed.admin.partitions(&missing).await.unwrap(), 0);
    committer.close().await;
}

#[tokio::test]
async fn a_record_without_a_key_is_refused_by_a_compacted_topic_alone() {
    let compacted = [("cleanup.policy", "compact")];
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &compacted).await;
    let mut committer = bed.committer();
    committer.submit(unit(vec![
        bed.slice(0, 0, values(0..10)),
        bed.slice(1, 0, vec![Output::new("no key").without_key()]),
        bed.slice(2, 0, values(10..20)),
    ]));
    let report = committer.report().await;
    assert_eq!(report.fates[0], SliceFate::Committed);
    assert_refused(&report.fates[1], &bed.target, true);
    assert_eq!(report.fates[2], SliceFate::Committed);
    assert_eq!(bed.values().await.len(), 20);
    committer.close().await;
}
