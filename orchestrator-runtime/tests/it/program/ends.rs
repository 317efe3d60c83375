//! Exit codes, and what the last line says.

use std::time::Instant;

use orchestrator_testkit::process::Signal;

use super::*;

fn kafka() -> &'static str {
    Kafka::shared().bootstrap_servers()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_with_0_and_the_counts() {
    let mut records = vec![order(); 500];
    records.extend(vec![faulty("permanent"); 3]);
    let source = topics(&[records, vec![order(); 20]]).await;
    let more = [
        ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
        ("ORCH_DLQ_TOPIC", "{topic}.dlq"),
    ];
    let process = program(kafka(), &source, &more).start().unwrap();
    wait_for_committed(&source, &[(0, 503), (1, 20)]).await;
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));
    let last = last_line(&process);
    assert_eq!(last["message"], "drained");
    assert_eq!(last["labels.exit_code"], 0);
    let counts = ["ok", "outputs", "failed", "dead_letters", "held_partitions"];
    let counts = counts.map(|name| last[format!("labels.{name}")].as_u64().unwrap());
    assert_eq!(counts, [520, 520, 3, 3, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_under_stop_ends_with_3_and_names_the_record() {
    let source = topics(&[vec![order(), order(), faulty("permanent"), order()]]).await;
    let more = [("ORCH_ATOMIC_ON_POISON", "STOP")];
    let process = program(kafka(), &source, &more).start().unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(3));
    let last = last_line(&process);
    let said = last["message"].as_str().unwrap();
    assert!(said.contains(&format!("{source}-0")), "{said}");
    assert!(said.contains("ORCH_DEAD_LETTER_RECORDS"), "{said}");
    assert_eq!(last["labels.ok"], 2);
    assert_eq!(last["log.level"], "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let source = topics(&[vec![order(), faulty("hang:600000")]]).await;
    let more = [
        ("ORCH_DRAIN_TIMEOUT_MS", "25000"),
        ("ORCH_TRANSFORM_TIMEOUT_MS", "300"),
    ];
    let process = program(kafka(), &source, &more).start().unwrap();
    let hangs = |line: &str| line.contains("cannot be cancelled");
    process.wait_for_line(LIMIT, hangs).await.unwrap();
    process.signal(Signal::Term).unwrap();
    let drains = |line: &str| line.contains("a second signal ends");
    process.wait_for_line(LIMIT, drains).await.unwrap();
    let told = Instant::now();
    // One that follows at once counts as the same, so more than one is sent.
    let ended = async || process.signal(Signal::Int).is_err();
    wait::until("it has ended", LIMIT, ended).await.unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(1));
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    assert!(last_line(&process)["message"] == "second signal: ending at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_ends_with_1_and_says_so() {
    let source = topics(&[vec![faulty("hang:600000")]]).await;
    let more = [
        ("ORCH_DRAIN_TIMEOUT_MS", "500"),
        ("ORCH_TRANSFORM_TIMEOUT_MS", "300"),
    ];
    let process = program(kafka(), &source, &more).start().unwrap();
    let hangs = |line: &str| line.contains("cannot be cancelled");
    process.wait_for_line(LIMIT, hangs).await.unwrap();
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(1));
    let last = last_line(&process);
    let said = last["message"].as_str().unwrap();
    assert!(said.contains("ORCH_DRAIN_TIMEOUT_MS"), "{said}");
}
