//! Waits until a broker that was started again has loaded what it knows of groups.
//!
//! A broker that comes back before it was missed loads each partition of `__consumer_offsets` as the leader that it was, and
//! again as the one that it becomes a moment later. Kafka (4.3.1) takes the end of the first load for that of the second one:
//! it answers for groups of which it has read a part. What is written then is "out of sync with the underlying log", the
//! partition is loaded once more, beside the second load, and fails: its groups have no coordinator any more. That takes a log
//! of some MB, as a soak writes it, and somebody who writes within that second. So nobody does.

use std::path::PathBuf;

use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::wait;

use super::super::scene::LIMIT;

/// Who says it, at level `info`.
pub(super) const LOGGER: &str = "org.apache.kafka.coordinator.common.runtime.CoordinatorRuntime";

/// The test kit's `offsets.topic.num.partitions`.
const PARTITIONS: usize = 5;

/// What a broker loads from now on.
pub(super) struct Loads {
    log: PathBuf,
    told_before: usize,
}

impl Loads {
    pub(super) fn of(kafka: &Kafka) -> Self {
        let log = kafka.folder().unwrap().join("broker.log");
        let told_before = std::fs::read(&log).unwrap().len();
        Self { log, told_before }
    }

    pub(super) async fn wait(&self) {
        let loaded = wait::until("the broker has loaded its groups", LIMIT, async || {
            let log = std::fs::read(&self.log).unwrap();
            let told = String::from_utf8_lossy(&log[self.told_before..]);
            (0..PARTITIONS).all(|partition| is_loaded(&told, partition))
        });
        loaded.await.unwrap();
    }
}

/// Whether the last load that was begun has ended.
fn is_loaded(told: &str, partition: usize) -> bool {
    let partition = format!("__consumer_offsets-{partition} ");
    let begins = format!("Scheduling loading of metadata from {partition}with epoch ");
    let Some((_, rest)) = told.rsplit_once(&begins) else {
        return false;
    };
    let epoch: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let ended = format!("Finished loading of metadata from {partition}with epoch {epoch} ");
    // After the end of an earlier one was taken for its own.
    let ignored = format!("Ignored load completion from {partition}");
    rest.contains(&ended) || rest.contains(&ignored)
}

#[test]
fn a_partition_is_loaded_when_its_last_load_has_ended() {
    let begins = "Scheduling loading of metadata from __consumer_offsets-3 with epoch 14\n";
    let earlier = "Finished loading of metadata from __consumer_offsets-3 with epoch 12 in 9ms\n";
    let ended = "Finished loading of metadata from __consumer_offsets-3 with epoch 14 in 9ms\n";
    let ignored = "Ignored load completion from __consumer_offsets-3 because context is in ACTIVE";
    assert!(!is_loaded("", 3));
    assert!(!is_loaded(&[begins, earlier].concat(), 3));
    assert!(!is_loaded(&[ended, begins].concat(), 3));
    assert!(is_loaded(&[begins, ended].concat(), 3));
    assert!(is_loaded(&[begins, earlier, ignored].concat(), 3));
    assert!(!is_loaded(&[begins, ended].concat(), 1));
}
