//! Processes that end in the middle of the work, in peace or not, and what the next one makes of their rows.

use super::bed::Bed;
use super::on_every_ledger;
use super::table::Kind;
use super::truth::{Life, Mode, Offsets, Strategy};
use crate::faults::scene::drain;

on_every_ledger! {
    drained_in_the_middle,
    killed_in_the_middle,
}

const RECORDS: u64 = 2_400;
/// Records of a second, so that there is a middle.
const PER_SECOND: &str = "1200";
/// How far it gets until it ends.
const PROGRESS: i64 = 500;
/// What a process that is killed may not have told the ledger: half a second's work is far more than it should be.
const UNTOLD_MAX: usize = 600;

async fn bed(strategy: Strategy, kind: Kind) -> Bed {
    let bed = Bed::new(strategy, kind, Mode::SkipAndLog).await;
    let bed = bed.with("ORCH_RATE_LIMIT_PER_SECOND", PER_SECOND);
    bed.write_orders(RECORDS, |index| match index {
        index if index % 20 == 7 => Some("permanent"),
        index if index % 100 == 3 => Some("transient:1"),
        _ => None,
    })
    .await;
    bed
}

/// What the group has passed, which has to be less than all.
async fn passed_in_part(bed: &Bed) -> Offsets {
    let committed = bed.committed().await;
    let passed: i64 = committed.values().sum();
    assert!(
        (PROGRESS..RECORDS as i64).contains(&passed),
        "{committed:?}"
    );
    committed
}

async fn drained_in_the_middle(strategy: Strategy, kind: Kind) {
    let bed = bed(strategy, kind).await;
    let first = bed.start("solo");
    bed.scene.wait_for_progress(PROGRESS).await;
    drain(&first).await;
    let middle = passed_in_part(&bed).await;
    let mut lives = vec![Life::new(&Offsets::new(), middle.clone())];
    bed.settles(&lives).await;

    let second = bed.start("solo");
    bed.scene.wait_until_caught_up().await;
    lives.push(bed.whole_life(&middle).await);
    assert_eq!(bed.settles(&lives).await.untold, 0);
    drain(&second).await;
    bed.settles(&lives).await;
}

async fn killed_in_the_middle(strategy: Strategy, kind: Kind) {
    let bed = bed(strategy, kind).await;
    let first = bed.start("solo");
    bed.scene.wait_for_progress(PROGRESS).await;
    first.kill().await.unwrap();

    let second = bed.start("solo");
    bed.scene.wait_for_progress(PROGRESS).await;
    // A transaction that was complete when the first was killed counts as passed by it; one that was not is aborted
    // by now.
    bed.scene.wait_until_caught_up().await;
    let mut life = bed.whole_life(&Offsets::new()).await;
    life.killed = true;
    let judged = bed.settles(&[life]).await;
    assert!(judged.untold <= UNTOLD_MAX, "{judged:?}");
    drain(&second).await;
}
