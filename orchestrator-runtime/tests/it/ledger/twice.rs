//! Records that are recorded more than once: by two processes as partitions go from one to the other, by one that
//! was thought dead, and by a replay.

use orchestrator_testkit::process::Signal;

use super::bed::Bed;
use super::table::Kind;
use super::truth::{Mode, Offsets, Strategy};
use super::with_every_strategy;
use crate::faults::scene::drain;
use crate::faults::served::wait_until_all_work;

with_every_strategy! {
    taken_over,
    replayed,
}

const RECORDS: u64 = 1_500;

fn fault(index: u64) -> Option<&'static str> {
    match index {
        index if index % 10 == 7 => Some("permanent"),
        index if index % 50 == 3 => Some("transient:1"),
        _ => None,
    }
}

/// A second member comes, works beside the first, and is alone in the end.
async fn taken_over(strategy: Strategy, kind: Kind) {
    let bed = Bed::new(strategy, kind, Mode::SkipAndLog).await;
    let load = bed.load(bed.pace());
    let first = bed.start("first");
    wait_until_all_work(&[&first], 100).await;
    let second = bed.start("second");
    wait_until_all_work(&[&first, &second], 100).await;
    drain(&first).await;
    wait_until_all_work(&[&second], 100).await;
    load.stop().await;
    bed.scene.wait_until_caught_up().await;
    let lives = [bed.whole_life(&Offsets::new()).await];
    assert_eq!(bed.settles(&lives).await.untold, 0);
    drain(&second).await;
    bed.settles(&lives).await;
}

/// The group begins again, with a transformer that was put right: OUTBOX and RELIABLE say so, and LIGHTWEIGHT, which
/// never hears of successes, keeps what was passed as a failure.
async fn replayed(strategy: Strategy, kind: Kind) {
    let bed = Bed::new(strategy, kind, Mode::AtomicDlq).await;
    bed.write_orders(RECORDS, fault).await;
    let first = bed.start("solo");
    bed.scene.wait_until_caught_up().await;
    let mut lives = vec![bed.whole_life(&Offsets::new()).await];
    bed.settles(&lives).await;
    drain(&first).await;

    bed.scene
        .admin
        .delete_group(&bed.scene.group)
        .await
        .unwrap();
    let second = bed.program().env("ORCH_INSTANCE_ID", "solo");
    let second = second.env("EXAMPLE_FAULTS", "false").start().unwrap();
    bed.scene.wait_until_caught_up().await;
    let mut life = bed.whole_life(&Offsets::new()).await;
    life.faults = false;
    lives.push(life);
    bed.settles(&lives).await;
    drain(&second).await;
    bed.settles(&lives).await;
}

/// It stands still while another takes over, and goes on as if nothing had happened: what it says then is old.
async fn a_zombie(strategy: Strategy, kind: Kind) {
    let mut bed = Bed::new(strategy, kind, Mode::SkipAndLog).await;
    bed.scene = bed.scene.writing_at_once();
    let bed = bed.with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "2000");
    let load = bed.load(bed.pace());
    let zombie = bed.start("zombie");
    wait_until_all_work(&[&zombie], 100).await;
    bed.scene.freeze_in_transaction(&[&zombie]).await;
    let heir = bed.start("heir");
    bed.scene.wait_until_caught_up().await;
    zombie.signal(Signal::Cont).unwrap();
    wait_until_all_work(&[&zombie, &heir], 100).await;
    load.stop().await;
    bed.scene.wait_until_caught_up().await;
    let lives = [bed.whole_life(&Offsets::new()).await];
    assert_eq!(bed.settles(&lives).await.untold, 0);
    for process in [&zombie, &heir] {
        drain(process).await;
    }
    bed.settles(&lives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_says_nothing_new() {
    tokio::join!(
        a_zombie(Strategy::Outbox, Kind::Postgres),
        a_zombie(Strategy::Outbox, Kind::MariaDb),
        a_zombie(Strategy::Lightweight, Kind::Postgres),
    );
}
