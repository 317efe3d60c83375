//! Who a process is to its group: back at once after a kill, gone at once after a drain, one of two twins, and the
//! same again after a long sleep. The figures are those of `docs/adr/0003-group-membership.md`.

use std::time::{Duration, Instant};

use orchestrator_testkit::kafka::{Kafka, KafkaOptions};
use orchestrator_testkit::process::{Process, Signal};
use orchestrator_testkit::wait;

use super::crew::{Crew, ask_to_drain, exit_code, has_been_given};
use super::driver::{DEADLINE, Protocol};

/// Promised after a kill and a restart under the same name.
const BACK: Duration = Duration::from_secs(5);
/// Promised after a drain.
const HANDED_OVER: Duration = Duration::from_secs(3);

async fn crew(protocol: Protocol) -> Crew {
    Crew::new(Kafka::shared().bootstrap_servers(), protocol).await
}

/// Kills a process and starts another one of that name: all records flow in time.
async fn killed_and_back(crew: &mut Crew, process: Process, name: &str) -> Process {
    process.kill().await.unwrap();
    let started = Instant::now();
    let process = crew.start(name);
    crew.pass_some(DEADLINE).await;
    let took = started.elapsed();
    println!("records flow {took:?} after a restart");
    assert!(took < BACK, "{took:?}");
    process
}

async fn killed_and_started_again(protocol: Protocol) {
    let mut crew = crew(protocol).await;
    let (a, b) = crew.two().await;
    let b = killed_and_back(&mut crew, b, "b").await;
    // And under that name it has a place for good.
    crew.pass_some(DEADLINE).await;
    crew.drain_all([&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_back_within_5_s() {
    killed_and_started_again(Protocol::Cooperative).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_back_within_5_s_with_kip_848() {
    killed_and_started_again(Protocol::Kip848).await;
}

async fn killed_alone(protocol: Protocol) {
    let mut crew = crew(protocol).await;
    let alone = crew.start("a");
    has_been_given(&alone, 0, 4).await;
    crew.pass_some(DEADLINE).await;
    let alone = killed_and_back(&mut crew, alone, "a").await;
    crew.drain_all([&alone]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_process_is_back_within_5_s() {
    killed_alone(Protocol::Cooperative).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_process_is_back_within_5_s_with_kip_848() {
    killed_alone(Protocol::Kip848).await;
}

async fn drained(protocol: Protocol) {
    let mut crew = crew(protocol).await;
    let (a, b) = crew.two().await;
    let (lines, asked) = (a.line_count(), Instant::now());
    ask_to_drain(&b);
    has_been_given(&a, lines, 2).await;
    let took = asked.elapsed();
    println!("{protocol:?}: the other has the partitions {took:?} after a drain");
    assert!(took < HANDED_OVER, "{took:?}");
    assert_eq!(exit_code(&b).await, Some(0));
    crew.pass_some(DEADLINE).await;
    crew.drain_all([&a]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_has_what_a_drained_process_had_within_3_s() {
    drained(Protocol::Cooperative).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_has_what_a_drained_process_had_within_3_s_with_kip_848() {
    drained(Protocol::Kip848).await;
}

async fn twins_of_a_chosen_name(protocol: Protocol) {
    let mut crew = crew(protocol).await;
    let (older, other) = crew.two().await;
    let younger = crew.start("a");
    // Two processes of one name: the younger one is the one that was meant.
    assert_eq!(exit_code(&older).await, Some(4));
    crew.pass_some(DEADLINE).await;
    crew.drain_all([&younger, &other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_twins_the_older_one_ends_with_code_4() {
    twins_of_a_chosen_name(Protocol::Cooperative).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_twins_the_older_one_ends_with_code_4_with_kip_848() {
    twins_of_a_chosen_name(Protocol::Kip848).await;
}

/// Nobody else is in the group, and so nobody else keeps it alive.
async fn twins_alone(protocol: Protocol, at_once: bool) {
    let mut crew = crew(protocol).await;
    let one = crew.start("a");
    if !at_once {
        has_been_given(&one, 0, 4).await;
        crew.pass_some(DEADLINE).await;
    }
    let other = crew.start("a");
    let ended = || [&one, &other].map(|process| process.status().unwrap().is_some());
    let one_ended = wait::until("one of the twins ends", DEADLINE, async || {
        ended() != [false, false]
    });
    one_ended.await.unwrap();
    let [first_ended, _] = ended();
    assert!(first_ended || at_once, "the younger one ended");
    let (fenced, goes_on) = match first_ended {
        true => (&one, &other),
        false => (&other, &one),
    };
    assert_eq!(exit_code(fenced).await, Some(4));
    crew.pass_some(DEADLINE).await;
    crew.drain_all([goes_on]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_twins_alone_the_younger_one_goes_on() {
    twins_alone(Protocol::Cooperative, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_twins_alone_the_younger_one_goes_on_with_kip_848() {
    twins_alone(Protocol::Kip848, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_twins_that_start_at_once_one_goes_on() {
    twins_alone(Protocol::Cooperative, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_twins_that_start_at_once_one_goes_on_with_kip_848() {
    twins_alone(Protocol::Kip848, true).await;
}

async fn twins_of_a_found_name(protocol: Protocol) {
    let mut crew = crew(protocol).await;
    // Two file systems, so that both find the first slot of this host: as two containers of one host name do.
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let start = |crew: &Crew, folder: usize| {
        let folder = folders[folder].path();
        crew.program().env("TMPDIR", folder).start().unwrap()
    };
    let older = start(&crew, 0);
    has_been_given(&older, 0, 4).await;
    crew.pass_some(DEADLINE).await;
    let lines = older.line_count();
    let younger = start(&crew, 1);
    has_been_given(&younger, 0, 2).await;
    has_been_given(&older, lines, 2).await;
    crew.pass_some(DEADLINE).await;
    crew.drain_all([&older, &younger]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_of_a_found_name_takes_another_one() {
    twins_of_a_found_name(Protocol::Cooperative).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_of_a_found_name_takes_another_one_with_kip_848() {
    twins_of_a_found_name(Protocol::Kip848).await;
}

async fn asleep(crew: Crew) {
    let mut crew = crew;
    let (a, b) = crew.two().await;
    b.signal(Signal::Stop).unwrap();
    // Longer than its session: the other one has it all.
    crew.pass_some(DEADLINE).await;
    let lines = b.line_count();
    b.signal(Signal::Cont).unwrap();
    has_been_given(&b, lines, 2).await;
    crew.pass_some(DEADLINE).await;
    crew.drain_all([&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_slept_comes_back() {
    let crew = crew(Protocol::Cooperative).await;
    asleep(crew.with("ORCH_KAFKA_CONSUMER_SESSION_TIMEOUT_MS", "6000")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_slept_comes_back_with_kip_848() {
    let options = KafkaOptions::new()
        .own()
        .property("group.consumer.min.session.timeout.ms", "3000")
        .property("group.consumer.session.timeout.ms", "3000");
    let options = options.property("group.consumer.min.heartbeat.interval.ms", "1000");
    let kafka = Kafka::start(options.property("group.consumer.heartbeat.interval.ms", "1000"));
    let kafka = kafka.unwrap();
    asleep(Crew::new(kafka.bootstrap_servers(), Protocol::Kip848).await).await;
}
