//! Records that end the process: lives that are cut off in the middle of a transform, one after the other, until each
//! such record is found. Nobody else may be blamed, and nothing lost or doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use orchestrator_runtime::core::quarantine::Quarantine;
use orchestrator_runtime::core::{
    Attempt, Output, Policy, Record, SourcePosition, TransformError, transform_async_fn,
};
use tokio_util::sync::CancellationToken;

use super::ports::{Shared, lock};
use super::worker::{calm, calm_settings, partition};
use super::{employ, in_virtual_time};

const AFTER: u32 = 3;
const LIVES_MAX: u64 = 30;
/// Whoever still works after that will never be done.
const LIFE_MAX: Duration = Duration::from_secs(3600);

/// Lets one life after the other work until all is passed; gives how many were cut off where they had left a mark. One
/// that leaves none has passed something before: a loop it is only when that ends.
fn lives_until_all_is_passed(broker: &Shared, killers: &BTreeSet<SourcePosition>) -> u64 {
    let mut marked = 0;
    for life in 0..LIVES_MAX {
        let crash = CancellationToken::new();
        let killed = Arc::new(OnceLock::new());
        let mut settings = calm_settings(broker, Policy::skip_and_log());
        settings.quarantine = Some(Quarantine {
            after: AFTER,
            owner: 1,
            life,
        });
        let transformer = {
            let (crash, killed, killers) = (crash.clone(), killed.clone(), killers.clone());
            transform_async_fn(move |record: Record, _: Attempt| {
                let kills = killers.contains(&record.position());
                let (crash, killed) = (crash.clone(), killed.clone());
                async move {
                    if kills {
                        crash.cancel();
                        killed.get_or_init(|| record.partition().clone());
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, TransformError>(Output::new("v"))
                }
            })
        };
        let all_is_passed = in_virtual_time(async {
            let done = CancellationToken::new();
            let worker = employ(broker, settings, done.clone(), transformer);
            tokio::select! {
                biased;
                () = crash.cancelled() => false,
                _ = worker.run(done) => true,
                () = tokio::time::sleep(LIFE_MAX) => panic!("it hangs: {}", lock(broker).log.join("\n")),
            }
        });
        if all_is_passed {
            assert_eq!(
                lock(broker).marks,
                BTreeMap::new(),
                "nothing is suspected any more"
            );
            return marked;
        }
        let mut broker = lock(broker);
        broker.generation += 1;
        let killed = killed.get();
        marked += u64::from(killed.is_some_and(|it| broker.marks.contains_key(it)));
    }
    panic!("it goes on for ever: {}", lock(broker).log.join("\n"));
}

#[track_caller]
fn finds(killers: &[(i32, usize)]) -> u64 {
    let broker = calm(3, 400);
    let at = |(number, index): &(i32, usize)| {
        let partition = partition(*number);
        let offset = lock(&broker).source[&partition][*index];
        partition.at(offset)
    };
    let killers: BTreeSet<_> = killers.iter().map(at).collect();
    let lives = lives_until_all_is_passed(&broker, &killers);
    let broker = lock(&broker);
    broker.check().unwrap();
    assert!(broker.all_passed());
    let letters = broker.visible.iter().filter(|(_, _, index)| *index == -1);
    let letters: Vec<_> = letters.map(|(p, offset, _)| p.at(*offset)).collect();
    assert_eq!(letters.iter().cloned().collect::<BTreeSet<_>>(), killers);
    assert_eq!(letters.len(), killers.len());
    lives
}

#[test]
fn a_record_that_ends_the_process_is_found() {
    assert_eq!(finds(&[(1, 0)]), u64::from(AFTER));
    for index in [1, 7, 150, 399] {
        assert_eq!(finds(&[(1, index)]), u64::from(AFTER), "record {index}");
    }
}

#[test]
fn many_of_them_are_found_one_by_one() {
    let lives = finds(&[(0, 0), (0, 1), (1, 200), (2, 200), (2, 399)]);
    assert!(lives <= 20, "{lives}");
}
