//! Sessions join and leave: what stays flows on, what goes comes out elsewhere from where it was committed.

use std::time::Instant;

use orchestrator_core::ports::{Session, SessionEvent, SessionFailure};

use super::driver::{DEADLINE, Driver, Place, Protocol, both_until};

async fn join_and_leave(protocol: Protocol) {
    let place = Place::new("join", 4).await;
    place.fill(4, 1_000).await;
    let config = place.consumer(protocol);
    let mut one = place.start_with(&config, place.settings());
    one.until("all read", |d| d.assigned() == 4 && d.count() == 4_000)
        .await;
    let before = one.epochs();

    let started = Instant::now();
    let mut two = place.start_with(&config, place.settings());
    both_until(&mut one, &mut two, |one, two| {
        one.assigned() == 2 && two.assigned() == 2
    })
    .await;
    println!("{protocol:?}: joined in {:?}", started.elapsed());
    for (partition, epoch) in one.epochs() {
        assert!(!two.chains.contains_key(&partition));
        if protocol != Protocol::Eager {
            assert_eq!(before[&partition], epoch, "{partition} stayed");
        }
    }
    // Nothing was committed, so what moved is read again from its start.
    both_until(&mut one, &mut two, |_, two| two.count() == 2_000).await;

    let kept = one.epochs();
    let left = Instant::now();
    tokio::join!(
        two.session.close(),
        one.until("all back", |d| d.assigned() == 4)
    );
    println!(
        "{protocol:?}: handed over after close in {:?}",
        left.elapsed()
    );
    let after = one.epochs();
    if protocol != Protocol::Eager {
        assert!(
            kept.iter()
                .all(|(partition, epoch)| after[partition] == *epoch)
        );
    }
    // Epochs never repeat.
    let seen = one.events.iter().filter_map(|e| match e {
        SessionEvent::Assigned { epoch, .. } => Some(*epoch),
        _ => None,
    });
    let seen: Vec<_> = seen.collect();
    assert!(seen.is_sorted() && seen.windows(2).all(|w| w[0] != w[1]));
    one.session.close().await;
}

#[tokio::test]
async fn partitions_that_stay_flow_on_with_cooperative_sticky() {
    join_and_leave(Protocol::Cooperative).await;
}

#[tokio::test]
async fn partitions_that_stay_flow_on_with_kip_848() {
    join_and_leave(Protocol::Kip848).await;
}

#[tokio::test]
async fn the_eager_protocol_works_too() {
    join_and_leave(Protocol::Eager).await;
}

/// What a session ends with, if nothing else happens to it first.
async fn failure(idle: &mut Driver) -> SessionFailure {
    let intake = idle.session.next(true).await;
    match intake.events.as_slice() {
        [SessionEvent::Failed(failure)] => failure.clone(),
        events => panic!("{events:?}"),
    }
}

#[tokio::test]
async fn of_two_twins_without_partitions_one_hears_of_it_with_kip_848() {
    let place = Place::new("idle", 1).await;
    let named = |name: &str| {
        let mut config = place.consumer(Protocol::Kip848);
        config.set("group.instance.id", name);
        place.start_with(&config, place.settings())
    };
    let mut busy = named("busy");
    busy.until("assigned", |d| d.assigned() == 1).await;
    let (mut one, mut other) = (named("idle"), named("idle"));
    let heard = async {
        tokio::select! {
            failure = failure(&mut one) => failure,
            failure = failure(&mut other) => failure,
        }
    };
    let heard = tokio::time::timeout(DEADLINE, heard).await.unwrap();
    assert!(matches!(heard, SessionFailure::Fenced(_)), "{heard:?}");
    assert_eq!(busy.assigned(), 1);
    tokio::join!(
        one.session.close(),
        other.session.close(),
        busy.session.close()
    );
}
