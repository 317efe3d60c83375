//! Records come out in order and whole, at their own pace and at the worker's.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_core::ports::{Session, SessionEvent};
use orchestrator_runtime::kafka::session::{GroupMembership, KafkaSession, limiter};
use orchestrator_testkit::writer::{Ending, WriteRecord, write_transaction};

use super::driver::{Place, Protocol, both_until};

#[tokio::test]
async fn all_records_come_out_once_in_an_unbroken_chain() {
    let place = Place::new("all", 4).await;
    place.fill(4, 12_500).await;
    let mut driver = place.start();
    driver.until("all read", |d| d.count() == 50_000).await;
    for partition in 0..4 {
        let read = &driver.read[&place.partition(partition)];
        assert!(read.iter().copied().eq(0..12_500));
    }
    assert!(driver.has(|e| matches!(
        e,
        SessionEvent::Assigned {
            remember: true,
            position: 0,
            ..
        }
    )));
    driver
        .until("caught up", |d| {
            (0..4).all(|p| {
                let partition = place.partition(p);
                d.has(|e| {
                    *e == SessionEvent::CaughtUp {
                        partition: partition.clone(),
                    }
                })
            })
        })
        .await;
    let handle = driver.session.handle();
    assert!(handle.lags().iter().all(|(_, lag)| *lag == 0));
    assert_eq!(handle.lags().len(), 4);
    assert!(handle.status().broker_reachable());
    driver.session.close().await;
}

#[tokio::test]
async fn keys_values_headers_and_nulls_arrive_as_they_were_written() {
    let place = Place::new("parts", 1).await;
    let records = [
        WriteRecord::new("v")
            .key("k")
            .header("a", "1")
            .header("a", "2")
            .timestamp(1_234),
        WriteRecord {
            key: Some(Vec::new()),
            partition: Some(0),
            ..WriteRecord::default()
        },
        WriteRecord::new(""),
    ];
    write_transaction(&place.bootstrap, &place.topic, records, Ending::Commit)
        .await
        .unwrap();
    let mut driver = place.start();
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(
            driver
                .session
                .next(true)
                .await
                .slices
                .into_iter()
                .flat_map(|s| s.records),
        );
    }
    assert_eq!(
        (read[0].key(), read[0].value()),
        (Some(&b"k"[..]), Some(&b"v"[..]))
    );
    assert!(
        read[0]
            .headers()
            .eq([("a", Some(&b"1"[..])), ("a", Some(&b"2"[..]))])
    );
    assert_eq!(read[0].timestamp_ms(), Some(1_234));
    assert_eq!((read[1].key(), read[1].value()), (Some(&b""[..]), None));
    assert_eq!((read[2].key(), read[2].value()), (None, Some(&b""[..])));
    assert_eq!(read[2].headers().count(), 0);
    driver.session.close().await;
}

#[tokio::test]
async fn aborted_transactions_leave_gaps_and_no_lag() {
    let place = Place::new("gaps", 1).await;
    let some = |n: usize| (0..n).map(|i| WriteRecord::new(format!("{i}")).partition(0));
    for ending in [Ending::Commit, Ending::Abort, Ending::Commit, Ending::Abort] {
        write_transaction(&place.bootstrap, &place.topic, some(10), ending)
            .await
            .unwrap();
    }
    let mut driver = place.start();
    // Ten and a marker, four times.
    driver.until("all read", |d| d.count() == 20).await;
    let read = &driver.read[&place.partition(0)];
    assert!(read.iter().copied().eq((0..10).chain(22..32)));
    driver
        .until("caught up", |d| {
            d.has(|e| matches!(e, SessionEvent::CaughtUp { .. }))
        })
        .await;
    assert_eq!(driver.session.handle().lags(), [(place.partition(0), 0)]);
    driver.session.close().await;
}

#[tokio::test]
async fn a_worker_that_takes_nothing_keeps_its_partitions_and_its_prefetch() {
    let place = Place::new("pressure", 2).await;
    place.fill(2, 5_000).await;
    let mut config = place.consumer(Protocol::Cooperative);
    config.set("max.poll.interval.ms", "6000");
    let mut settings = place.settings();
    settings.batch_max_records = 100;
    let mut driver = place.start_with(&config, settings);
    driver.until("assigned", |d| d.assigned() == 2).await;
    let epochs = driver.epochs();
    // Longer than max.poll.interval.ms and the session time-out, with a full gather all the while.
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::timeout(left, driver.step(false))
            .await
            .unwrap_or_default();
    }
    assert_eq!(driver.epochs(), epochs);
    driver.until("all read", |d| d.count() == 10_000).await;
    assert_eq!(driver.epochs(), epochs);
    driver.session.close().await;
}

#[tokio::test]
async fn a_rebalance_is_served_while_the_worker_takes_nothing() {
    let place = Place::new("full", 2).await;
    place.fill(2, 5_000).await;
    let mut settings = place.settings();
    settings.batch_max_records = 100;
    let config = place.consumer(Protocol::Cooperative);
    let mut full = place.start_with(&config, settings);
    full.until("assigned", |d| d.assigned() == 2).await;
    let mut other = place.start();
    let joined = Instant::now();
    let handed_over = async {
        while full.assigned() != 1 || other.assigned() != 1 {
            tokio::select! {
                () = full.step(false) => {}
                () = other.step(true) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), handed_over)
        .await
        .unwrap();
    println!("handed over to a second session in {:?}", joined.elapsed());
    both_until(&mut full, &mut other, |full, other| {
        full.count().min(other.count()) >= 5_000
    })
    .await;
    full.session.close().await;
    other.session.close().await;
}

#[tokio::test]
async fn the_rate_limit_holds() {
    let place = Place::new("rate", 1).await;
    place.fill(1, 1_000).await;
    let membership = Arc::new(GroupMembership::default());
    let config = place.consumer(Protocol::Cooperative);
    let limiter = limiter(NonZeroU32::new(200));
    let mut session = KafkaSession::start(&config, place.settings(), membership, limiter).unwrap();
    session.join();
    let (mut count, mut first) = (0, None);
    while count < 400 {
        let intake = session.next(true).await;
        for slice in &intake.slices {
            count += slice.records.len();
            first.get_or_insert_with(Instant::now);
        }
    }
    // 20 at once, then 5 ms each.
    let took = first.unwrap().elapsed();
    assert!(took > Duration::from_millis(1_850), "{took:?}");
    assert!(took < Duration::from_millis(4_000), "{took:?}");
    session.close().await;
}
