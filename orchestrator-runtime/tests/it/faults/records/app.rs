//! The example app's faults, one to a partition, in both failure modes and under BLOCK.

use std::collections::BTreeMap;

use orchestrator_testkit::writer::WriteRecord;

use super::super::exact::{Fate, Input};
use super::super::given;
use super::super::scene::{LIMIT, Scene, drain, shared};
use super::{FAULTY_AT, orders_with_fault};

/// What ends as a dead letter, with a word of what it says.
const POISON: [(&str, &str, &str); 4] = [
    ("permanent", "transform", "x-fault: permanent"),
    ("panic", "panic", "the transformer panicked: x-fault: panic"),
    ("oversize:2000000", "output", "max.message.bytes"),
    (
        "transient:99",
        "transform",
        "x-fault: transient:99, attempt 3",
    ),
];
/// What passes in the end.
const PASSING: [&str; 3] = ["transient:2", "infrastructure:300", "hang:1500"];

struct Bed {
    scene: Scene,
    inputs: Vec<Input>,
}

/// A fault to a partition, and one partition without.
async fn bed(poison_becomes: &Fate) -> Bed {
    let partitions = i32::try_from(POISON.len() + PASSING.len() + 1).unwrap();
    let scene = Scene::new(shared(), 1, partitions)
        .await
        .with("ORCH_RETRY_BACKOFF_MS", "20")
        .with("ORCH_RETRY_BACKOFF_MAX_MS", "100")
        .with("ORCH_TRANSFORM_TIMEOUT_MS", "200");
    let poison = POISON.map(|(fault, ..)| (fault, true));
    let passing = PASSING.map(|fault| (fault, false));
    let all = poison
        .into_iter()
        .chain(passing)
        .chain([("transient:0", false)]);
    let mut inputs = Vec::new();
    for (partition, (fault, poison)) in (0..).zip(all) {
        let records = orders_with_fault(partition, ("x-fault", fault), |value| {
            if poison {
                poison_becomes.clone()
            } else {
                Fate::of_order(value)
            }
        });
        let blocked = poison && *poison_becomes == Fate::Nothing;
        let records = if blocked {
            behind_is_nothing(records)
        } else {
            records
        };
        inputs.extend(scene.write(0, records).await);
    }
    Bed { scene, inputs }
}

/// Under BLOCK nothing behind a poison record is passed.
fn behind_is_nothing(records: Vec<(WriteRecord, Fate)>) -> Vec<(WriteRecord, Fate)> {
    let mut blocked = false;
    let held = records.into_iter().map(|(record, fate)| {
        blocked |= fate == Fate::Nothing;
        (record, if blocked { Fate::Nothing } else { fate })
    });
    held.collect()
}

async fn poison_becomes_dead_letters(mode: &str) {
    let Bed { scene, inputs } = bed(&Fate::DeadLetter).await;
    let scene = scene.with("ORCH_FAILURE_MODE", mode);
    let app = scene.start("solo");
    scene.wait_until_passed(&inputs).await;
    drain(&app).await;
    scene.judge(&inputs).await.unwrap();

    let (_, letters) = scene.visible().await;
    for (partition, (fault, stage, message)) in POISON.iter().enumerate() {
        let partition = partition.to_string();
        let of_it = |l: &&_| header(l, "__streams.errors.partition") == partition;
        let letter = letters.iter().find(of_it).unwrap();
        assert_eq!(header(letter, "orchestrator.stage"), *stage, "{fault}");
        let said = header(letter, "__streams.errors.message");
        assert!(said.contains(message), "{fault}: {said}");
        let attempts = if fault.starts_with("transient") {
            "3"
        } else {
            "1"
        };
        assert_eq!(header(letter, "orchestrator.attempts"), attempts, "{fault}");
    }
    // The others bit too: one was held for its infrastructure, one was seen to hang.
    let lines: Vec<_> = app.lines().into_iter().map(|line| line.text).collect();
    for words in ["x-fault: infrastructure:300", "ORCH_TRANSFORM_TIMEOUT_MS"] {
        assert!(lines.iter().any(|line| line.contains(words)), "no {words}");
    }
    tell();
}

fn tell() {
    for fault in POISON.iter().map(|(fault, ..)| fault).chain(&PASSING) {
        given::bitten(1, &format!("records: {fault}"));
    }
}

fn header<'a>(letter: &'a orchestrator_testkit::reader::ReadRecord, name: &str) -> &'a str {
    letter
        .header(name)
        .unwrap_or_else(|| panic!("no {name} in {letter:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_with_dlq_dead_letters_each_fault_alone() {
    poison_becomes_dead_letters("ATOMIC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_and_log_dead_letters_each_fault_alone() {
    poison_becomes_dead_letters("SKIP_AND_LOG").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn block_holds_each_fault_alone() {
    let Bed { scene, inputs } = bed(&Fate::Nothing).await;
    let scene = scene.with("ORCH_ATOMIC_ON_POISON", "BLOCK");
    let app = scene.start("solo");
    scene.wait_until_passed(&inputs).await;
    // Each partition with poison is committed up to it, and its log line names the way out.
    let source = &scene.sources[0];
    let committed = scene.admin.committed(&scene.group, source).await.unwrap();
    let held: BTreeMap<_, _> = (0..).zip(POISON).map(|(p, _)| (p, FAULTY_AT)).collect();
    let at_poison = committed.into_iter().filter(|(p, _)| held.contains_key(p));
    assert_eq!(at_poison.collect::<BTreeMap<_, _>>(), held);
    for partition in held.keys() {
        let way_out = format!("ORCH_DEAD_LETTER_RECORDS={source}:{partition}:{FAULTY_AT}");
        app.wait_for_line(LIMIT, |line| line.contains(&way_out))
            .await
            .unwrap();
    }
    drain(&app).await;
    scene.judge(&inputs).await.unwrap();
    tell();
}
