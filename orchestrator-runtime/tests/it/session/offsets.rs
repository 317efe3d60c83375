//! Where a partition is read from: starts, lost offsets, pausing and resuming.

use orchestrator_core::ports::{Session, SessionEvent};
use orchestrator_runtime::config::{OnOffsetLost, StartFrom};

use super::driver::{Driver, Place, Protocol};

fn is_lost(event: &SessionEvent) -> bool {
    matches!(event, SessionEvent::OffsetLost { .. })
}

#[tokio::test]
async fn latest_is_resolved_once_and_to_be_remembered() {
    let place = Place::new("latest", 1).await;
    place.fill(1, 10).await;
    let mut settings = place.settings();
    settings.start_from = StartFrom::Latest;
    let mut driver = place.start_with(&place.consumer(Protocol::Cooperative), settings);
    driver.until("assigned", |d| d.assigned() == 1).await;
    assert!(driver.has(|e| matches!(
        e,
        SessionEvent::Assigned {
            position: 10,
            remember: true,
            ..
        }
    )));
    place.fill(1, 5).await;
    driver.until("read", |d| d.count() == 5).await;
    assert_eq!(driver.read[&place.partition(0)], [10, 11, 12, 13, 14]);
    driver.session.close().await;
}

#[tokio::test]
async fn a_committed_offset_is_where_it_goes_on() {
    let place = Place::new("committed", 2).await;
    place.fill(2, 10).await;
    place.commit(0, 7);
    let mut driver = place.start();
    driver.until("read", |d| d.count() == 13).await;
    assert_eq!(driver.read[&place.partition(0)], [7, 8, 9]);
    assert!(driver.has(|e| matches!(
        e,
        SessionEvent::Assigned {
            position: 7,
            remember: false,
            ..
        }
    )));
    let partitions = [place.partition(0), place.partition(1)].into();
    let handle = driver.session.handle();
    let asked =
        tokio::task::spawn_blocking(move || handle.committed(&partitions, super::driver::DEADLINE));
    let committed = asked.await.unwrap().unwrap();
    assert_eq!(committed[&place.partition(0)], Some(7));
    assert_eq!(committed[&place.partition(1)], None);
    driver.session.close().await;
}

async fn with_records_deleted(place: &Place, on_offset_lost: OnOffsetLost) -> Driver {
    place.fill(2, 100).await;
    place.commit(0, 10);
    place
        .admin()
        .delete_records(&place.topic, 0, 50)
        .await
        .unwrap();
    let mut settings = place.settings();
    settings.on_offset_lost = on_offset_lost;
    place.start_with(&place.consumer(Protocol::Cooperative), settings)
}

#[tokio::test]
async fn a_lost_offset_holds_its_partition_and_no_other() {
    let place = Place::new("lost", 2).await;
    let mut driver = with_records_deleted(&place, OnOffsetLost::Hold).await;
    driver
        .until("the other", |d| d.count() == 100 && d.has(is_lost))
        .await;
    let lost = driver.events.iter().find(|e| is_lost(e)).cloned();
    let Some(SessionEvent::OffsetLost {
        partition,
        epoch,
        committed,
        low,
        high,
    }) = lost
    else {
        unreachable!()
    };
    assert_eq!(
        (&partition, committed, low, high),
        (&place.partition(0), 10, 50, 100)
    );
    assert!(!driver.membership.owns(&partition, epoch));
    assert!(!driver.read.contains_key(&partition));
    // Trying again looks again.
    driver.session.resume(&partition, epoch, committed);
    let lost_twice = |d: &Driver| d.events.iter().filter(|e| is_lost(e)).count() == 2;
    driver.until("looked again", lost_twice).await;
    driver.session.close().await;
}

#[tokio::test]
async fn a_lost_offset_goes_on_at_the_earliest_if_told_to() {
    let place = Place::new("lost-earliest", 2).await;
    let mut driver = with_records_deleted(&place, OnOffsetLost::Earliest).await;
    driver.until("all", |d| d.count() == 150).await;
    assert!(driver.has(|e| matches!(
        e,
        SessionEvent::Assigned {
            position: 50,
            remember: true,
            ..
        }
    )));
    driver.session.close().await;
}

/// The records that are read next are deleted while the session reads.
async fn lost_while_reading(protocol: Protocol, on_offset_lost: OnOffsetLost) {
    let place = Place::new("lost-later", 2).await;
    // Many small batches, so that little is fetched at a time.
    for _ in 0..8 {
        place.fill(2, 100).await;
    }
    let mut config = place.consumer(protocol);
    config
        .set("queued.max.messages.kbytes", "1")
        .set("fetch.message.max.bytes", "1000")
        .set("queued.min.messages", "10");
    let mut settings = place.settings();
    settings.batch_max_records = 10;
    settings.on_offset_lost = on_offset_lost;
    let mut driver = place.start_with(&config, settings);
    let (victim, other) = (place.partition(0), place.partition(1));
    // Not until both have records: the victim may be read to its end by then.
    driver
        .until("some", |d| {
            d.read.contains_key(&victim) && d.assigned() == 2
        })
        .await;
    let epoch = driver.epochs()[&victim];
    // From here on nothing is taken, so that no more is fetched than the little that fits.
    assert!(driver.chains[&victim].1 < 300, "too late to lose any");
    let admin = place.admin();
    admin.delete_records(&place.topic, 0, 750).await.unwrap();
    // Nothing is committed, so the group starts anew: at the earliest.
    let all = |d: &Driver| d.chains.len() == 2 && d.chains.values().all(|c| c.1 == 800);
    driver.until("all", all).await;
    assert!(driver.has(|e| *e
        == SessionEvent::Revoked {
            partition: victim.clone()
        }));
    assert!(driver.epochs()[&victim] > epoch);
    let read = &driver.read[&victim];
    assert!(read.ends_with(&(750..800).collect::<Vec<_>>()), "{read:?}");
    assert!(driver.read[&other].iter().copied().eq(0..800));
    driver.session.close().await;
}

#[tokio::test]
async fn records_deleted_before_they_are_read_are_noticed() {
    lost_while_reading(Protocol::Cooperative, OnOffsetLost::Hold).await;
}

#[tokio::test]
async fn records_deleted_before_they_are_read_are_noticed_with_kip_848() {
    lost_while_reading(Protocol::Kip848, OnOffsetLost::Earliest).await;
}

#[tokio::test]
async fn records_deleted_before_they_are_read_are_noticed_with_the_eager_protocol() {
    lost_while_reading(Protocol::Eager, OnOffsetLost::Earliest).await;
}

#[tokio::test]
async fn a_paused_partition_rests_while_the_other_flows_and_resumes_where_it_is_told() {
    let place = Place::new("pause", 2).await;
    place.fill(2, 1_000).await;
    let mut settings = place.settings();
    settings.batch_max_records = 100;
    let mut driver = place.start_with(&place.consumer(Protocol::Cooperative), settings);
    let (held, other) = (place.partition(0), place.partition(1));
    driver
        .until("some", |d| d.read.contains_key(&place.partition(0)))
        .await;
    let epoch = driver.epochs()[&held];
    driver.session.pause(&held, epoch);
    // What was gathered before comes out with what the other gives now; then no more does.
    place.fill(2, 10).await;
    driver
        .until("the other", |d| d.chains[&other].1 == 1_010)
        .await;
    let stands = driver.chains[&held].1;
    assert!(stands < 1_000);
    place.fill(2, 10).await;
    driver
        .until("the other", |d| d.chains[&other].1 == 1_020)
        .await;
    assert_eq!(driver.chains[&held].1, stands);

    // Back to the middle of what was read, and on to the end; the epoch is the same.
    let at = stands / 2;
    driver.session.resume(&held, epoch, at);
    driver.chains.insert(held.clone(), (epoch, at));
    driver.read.remove(&held);
    driver.until("all", |d| d.chains[&held].1 == 1_020).await;
    assert!(driver.read[&held].iter().copied().eq(at..1_020));
    assert_eq!(driver.epochs()[&held], epoch);

    // Many times in a row, also faster than the consumer can follow, and while it flows.
    for round in 0..50 {
        let at = round * 20;
        driver.session.resume(&held, epoch, 0);
        driver.session.pause(&held, epoch);
        driver.session.resume(&held, epoch, at);
        driver.chains.insert(held.clone(), (epoch, at));
        driver.read.remove(&held);
        if round % 5 == 0 {
            driver.until("all", |d| d.chains[&held].1 == 1_020).await;
            assert!(driver.read[&held].iter().copied().eq(at..1_020));
        } else {
            driver.until("some", |d| d.chains[&held].1 > at).await;
        }
    }
    driver.session.close().await;
}
