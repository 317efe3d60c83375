//! Processes that end in the middle of the work, in peace or not, and what the next one makes of their rows.

use orchestrator_testkit::process::Process;

use super::bed::Bed;
use super::table::Kind;
use super::truth::{Life, Mode, Offsets, Strategy};
use super::{on_all, with_every_strategy};
use crate::faults::scene::drain;

with_every_strategy! {
    drained_in_the_middle,
    killed_in_the_middle,
}

/// So many seconds' work is there to do, so that there is a middle: a process has done one of them when it ends.
const SECONDS: u64 = 4;
/// What a process that is killed may not have told the ledger: half a second's work (of RELIABLE a whole one's) is far
/// more than it should be.
const UNTOLD_MAX: usize = 300;

async fn bed(strategy: Strategy, kind: Kind, mode: Mode) -> Bed {
    let bed = Bed::new(strategy, kind, mode).await;
    let pace = bed.pace();
    let bed = bed.with("ORCH_RATE_LIMIT_PER_SECOND", pace.to_string());
    bed.write_orders(SECONDS * u64::from(pace), |index| match index {
        index if index % 20 == 7 && mode != Mode::AtomicBlock => Some("permanent"),
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
    let pace = i64::from(bed.pace());
    assert!(
        (pace..SECONDS as i64 * pace).contains(&passed),
        "{committed:?}"
    );
    committed
}

async fn drained_in_the_middle(strategy: Strategy, kind: Kind) {
    let bed = bed(strategy, kind, Mode::SkipAndLog).await;
    let first = bed.start("solo");
    bed.scene.wait_for_progress(bed.pace().into()).await;
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
    let bed = bed(strategy, kind, Mode::SkipAndLog).await;
    let (second, life) = killed_and_started_again(&bed).await;
    let untold_max = UNTOLD_MAX.min(bed.pace() as usize);
    bed.settles_with(&[life], |judged| {
        judged.missing == 0 && judged.untold <= untold_max
    })
    .await;
    drain(&second).await;
}

/// The next process finds out what the one before has not told: where only successes pass, all are SUCCESS in the end.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_told_is_settled() {
    for mode in [Mode::AtomicBlock, Mode::AtomicDlq] {
        on_all(async |kind| {
            let bed = bed(Strategy::Outbox, kind, mode).await;
            let bed = bed.with("ORCH_SAFEGUARD_STALE_MS", "2000");
            let (second, mut life) = killed_and_started_again(&bed).await;
            life.settled = true;
            bed.settles(&[life]).await;
            drain(&second).await;
        })
        .await;
    }
}

/// Kills a process at work, and lets another do the rest; gives back what both have done.
async fn killed_and_started_again(bed: &Bed) -> (Process, Life) {
    let first = bed.start("solo");
    bed.scene.wait_for_progress(bed.pace().into()).await;
    first.kill().await.unwrap();

    let second = bed.start("solo");
    bed.scene.wait_until_caught_up().await;
    let mut life = bed.whole_life(&Offsets::new()).await;
    life.killed = true;
    (second, life)
}
