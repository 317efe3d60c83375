//! Processes whose requests, or the answers to them, are cut, lost or late: chosen ones, by a proxy between them and the
//! broker. A run in which a fault did not bite as often as it was to is void, and fails.

use std::sync::OnceLock;
use std::time::Duration;

use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::proxy::{Api, Bites, Fault, Plan, Proxy};
use orchestrator_testkit::wait;
use tokio::sync::{Mutex, MutexGuard};

use super::given;
use super::planted::{NONE, start};
use super::scene::{LIMIT, Scene, drain, impatient};
use super::served::{counted, wait_until_all_work};

const PARTITIONS: i32 = 4;
const PER_SECOND: u32 = 1_000;
/// Far longer than the transactor tries on with a transaction time-out of four seconds.
const PATIENCE: Duration = Duration::from_secs(12);
/// How often it is tried to make librdkafka lose its brokers, which it seldom does.
const TRIES: u64 = 40;
/// What a transaction is made of.
const OF_A_TRANSACTION: [Api; 5] = [
    Api::AddPartitionsToTxn,
    Api::Produce,
    Api::AddOffsetsToTxn,
    Api::TxnOffsetCommit,
    Api::EndTxn,
];

/// A proxy that these tests share, one after the other, and a scene whose program knows the broker by that only.
async fn behind_a_proxy() -> (Scene, MutexGuard<'static, Proxy>) {
    static SHARED: OnceLock<(Kafka, Mutex<Proxy>)> = OnceLock::new();
    let (kafka, proxy) = SHARED.get_or_init(|| {
        let (kafka, proxy) = Proxy::start(impatient()).unwrap();
        (kafka, Mutex::new(proxy))
    });
    let proxy = proxy.lock().await;
    // What a failed test has left.
    proxy.relent();
    let scene = Scene::new(kafka, 1, PARTITIONS)
        .await
        .with("ORCH_BOOTSTRAP_SERVERS", proxy.bootstrap_servers())
        .with("ORCH_HTTP_ADDR", "127.0.0.1:0");
    (scene, proxy)
}

async fn has_bitten(what: &str, bites: &Bites, times: u64) {
    // A cut costs the client its back-off, and us a new producer.
    let limit = LIMIT + Duration::from_secs(1) * u32::try_from(times).unwrap();
    let bitten = wait::until(what, limit, async || bites.bitten() >= times);
    if let Err(error) = bitten.await {
        panic!("void: {error}: {} of {times}", bites.bitten());
    }
    given::bitten(times, what);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_within_a_transaction_loses_and_doubles_nothing() {
    let times = given::times(3);
    let (scene, proxy) = behind_a_proxy().await;
    let load = scene.load(PER_SECOND);
    let app = start(&scene, NONE);
    scene.wait_for_progress(200).await;
    for api in OF_A_TRANSACTION {
        for fault in [Fault::CutRequest, Fault::CutAnswer] {
            let bites = proxy.inflict(Plan::new(api, fault).every(7).times(times));
            has_bitten(&format!("{api:?} {fault:?}"), &bites, times).await;
            scene.wait_for_progress(50).await;
        }
    }
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
}

/// A producer is replaced after each cut, and then the initialisation of the new one is cut.
#[tokio::test(flavor = "multi_thread")]
async fn an_initialisation_that_is_cut_is_repeated() {
    let times = given::times(3);
    let (scene, proxy) = behind_a_proxy().await;
    let load = scene.load(PER_SECOND);
    let app = start(&scene, NONE);
    scene.wait_for_progress(200).await;
    for fault in [Fault::CutRequest, Fault::CutAnswer] {
        proxy.inflict(Plan::new(Api::EndTxn, Fault::CutAnswer).every(10));
        let bites = proxy.inflict(Plan::new(Api::InitProducerId, fault).every(3).times(times));
        has_bitten(&format!("InitProducerId {fault:?}"), &bites, times).await;
        proxy.relent();
        scene.wait_for_progress(50).await;
    }
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    IsKilled,
}

/// The broker does or does not do what it was asked, and the program never hears: of each request of this kind, until it
/// has given up on it. Then it goes on, or is killed and another takes its place: what the judgement says of that.
async fn judged_in_the_dark(
    (api, fault): (Api, Fault),
    then: Then,
    bug: &str,
) -> Result<(), String> {
    let (scene, proxy) = behind_a_proxy().await;
    let scene = scene
        .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "4000")
        .with("ORCH_KAFKA_PRODUCER_SOCKET_TIMEOUT_MS", "1000");
    let load = scene.load(100);
    let app = start(&scene, bug);
    scene.wait_for_progress(100).await;
    let replaced = counted(&app, "orch_producer_replaced_total").await;
    let bites = proxy.inflict(Plan::new(api, fault));
    has_bitten(&format!("{api:?} {fault:?}"), &bites, 1).await;
    let given_up = async || counted(&app, "orch_producer_replaced_total").await > replaced;
    let given_up = wait::until("the producer is replaced", PATIENCE, given_up).await;
    // A bug may be that it is not.
    assert!(given_up.is_ok() || bug != NONE, "void: it was not given up");
    let app = match then {
        Then::GoesOn => app,
        Then::IsKilled => {
            app.kill().await.unwrap();
            start(&scene, NONE)
        }
    };
    proxy.relent();
    scene.wait_for_progress(100).await;
    let inputs = load.stop().await;
    scene.wait_until_passed(&inputs).await;
    drain(&app).await;
    scene.judge(&inputs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_without_an_answer_lose_and_double_nothing() {
    let judged = judged_in_the_dark((Api::EndTxn, Fault::LoseAnswer), Then::GoesOn, NONE);
    judged.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_never_arrive_lose_and_double_nothing() {
    let judged = judged_in_the_dark((Api::EndTxn, Fault::LoseRequest), Then::GoesOn, NONE);
    judged.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_never_arrive_lose_and_double_nothing() {
    for api in [Api::AddOffsetsToTxn, Api::TxnOffsetCommit] {
        let dark = (api, Fault::LoseRequest);
        let judged = judged_in_the_dark(dark, Then::IsKilled, NONE).await;
        judged.unwrap();
    }
}

/// Commits reach the broker long after they were given up and repeated: by then the same transactional id may have the
/// next transaction open.
async fn judged_with_late_commits(bug: &str, times: u64) -> Result<(), String> {
    let (scene, proxy) = behind_a_proxy().await;
    let scene = scene.writing_at_once();
    let load = scene.load(PER_SECOND);
    let app = start(&scene, bug);
    scene.wait_for_progress(200).await;
    for late in 0..times {
        // Its repetition takes 110 to 150 ms.
        let late = Duration::from_millis(150 + 10 * (late % 20));
        let plan = Plan::new(Api::EndTxn, Fault::LateRequest(late));
        let bites = proxy.inflict(plan.every(5).times(1));
        has_bitten(&format!("EndTxn {late:?} late"), &bites, 1).await;
    }
    let inputs = load.stop().await;
    scene.wait_until_passed(&inputs).await;
    drain(&app).await;
    scene.judge(&inputs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_come_late_hit_nothing() {
    judged_with_late_commits(NONE, given::times(10))
        .await
        .unwrap();
}

/// What a process says that was expelled from the group without being told.
const EXPELLED: &str = "the group has expelled this member";

/// A member is expelled while its request to join again is on its way, for longer than a session. It learns that from the
/// answer only, and librdkafka goes on to own what others have passed meanwhile.
async fn judged_with_an_expelled_member(bug: &str) -> Result<(), String> {
    let (scene, proxy) = behind_a_proxy().await;
    let scene = scene.with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "2000");
    let load = scene.load(PER_SECOND);
    let zombie = start(&scene, bug);
    wait_until_all_work(&[&zombie], 200).await;
    let plan = Plan::new(Api::JoinGroup, Fault::HoldRequest(Duration::from_secs(4)));
    let bites = proxy.inflict(plan.times(1));
    let heir = scene.program();
    let heir = heir
        .env("ORCH_INSTANCE_ID", "heir")
        .env("ORCH_BOOTSTRAP_SERVERS", &scene.bootstrap);
    let heir = heir.start().unwrap();
    has_bitten("JoinGroup for longer than a session", &bites, 1).await;
    let expelled = zombie.wait_for_line(LIMIT, |line| line.contains(EXPELLED));
    expelled.await.unwrap();
    wait_until_all_work(&[&zombie, &heir], 50).await;
    let inputs = load.stop().await;
    scene.wait_until_passed(&inputs).await;
    for process in [&zombie, &heir] {
        drain(process).await;
    }
    scene.judge(&inputs).await
}

/// A member joins again, and its first request to do so reaches the broker after the second: the member that it makes
/// takes the place of ours, and nobody is that member.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_fenced_itself_goes_on() {
    let (scene, proxy) = behind_a_proxy().await;
    let load = scene.load(PER_SECOND);
    let app = start(&scene, NONE);
    wait_until_all_work(&[&app], 200).await;
    // It gives its membership up, of which the broker knows nothing: no other is sent until this one has its answer.
    proxy.inflict(Plan::new(Api::Heartbeat, Fault::LoseAnswer).times(1));
    // The repetition has its answer by then, and is a member for a while.
    let late = Fault::LateRequest(Duration::from_millis(1_500));
    let bites = proxy.inflict(Plan::new(Api::JoinGroup, late).times(1));
    has_bitten("JoinGroup after its repetition", &bites, 1).await;
    proxy.relent();
    let fenced = app.wait_for_line(LIMIT, |line| {
        line.contains("a request of our own that came late")
    });
    fenced.await.unwrap();
    wait_until_all_work(&[&app], 200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
}

/// The same in KIP-848: there it is who stands in for a process that was killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_fenced_by_its_own_stand_in_goes_on() {
    let (scene, proxy) = behind_a_proxy().await;
    let scene = scene.in_consumer_protocol();
    let load = scene.load(PER_SECOND);
    let killed = start(&scene, NONE);
    wait_until_all_work(&[&killed], 200).await;
    killed.kill().await.unwrap();
    let late = Fault::LateRequest(Duration::from_millis(1_500));
    let bites = proxy.inflict(Plan::new(Api::JoinGroup, late).times(1));
    let app = start(&scene, NONE);
    has_bitten("JoinGroup after its repetition", &bites, 1).await;
    let fenced = app.wait_for_line(LIMIT, |line| {
        line.contains("a request of our own that came late")
    });
    fenced.await.unwrap();
    wait_until_all_work(&[&app], 200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
}

/// A group of KIP-848 takes a member in, but the answer is lost, and the place is refused to the member that asks again:
/// as often as it tries, until it has given up and starts anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_never_hears_that_it_was_taken_in_is_no_twin() {
    let (scene, proxy) = behind_a_proxy().await;
    let scene = scene.in_consumer_protocol();
    let load = scene.load(PER_SECOND);
    let plan = Plan::new(Api::ConsumerGroupHeartbeat, Fault::CutAnswer).next_and_every(2);
    let bites = proxy.inflict(plan);
    let app = start(&scene, NONE);
    let given_up = app.wait_for_line(LIMIT, |line| line.contains("nobody else has our place"));
    given_up.await.unwrap();
    // A place is asked for once, and taken back five times.
    assert!(bites.bitten() >= 6, "void: {}", bites.bitten());
    proxy.relent();
    wait_until_all_work(&[&app], 200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_expelled_while_it_joins_commits_nothing_of_others() {
    for _ in 0..given::times(1) {
        judged_with_an_expelled_member(NONE).await.unwrap();
    }
}

mod planted {
    use super::*;

    const LATE: u64 = 50;
    /// Chance decides whether a late commit meets the next transaction: 50 were enough each time but one.
    const ROUNDS: u32 = 5;

    async fn doubles_in_the_dark(dark: (Api, Fault), then: Then, bug: &str) {
        let found = judged_in_the_dark(dark, then, bug).await.unwrap_err();
        assert!(found.contains("doubled"), "{found}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn going_by_memory_after_an_unknown_outcome_is_found() {
        let dark = (Api::EndTxn, Fault::LoseAnswer);
        doubles_in_the_dark(dark, Then::GoesOn, "RewindFromMemory").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_after_offsets_that_were_not_sent_is_found() {
        let dark = (Api::AddOffsetsToTxn, Fault::LoseRequest);
        doubles_in_the_dark(dark, Then::IsKilled, "CommitAfterFailedSendOffsets").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_late_commit_that_hits_a_producer_that_was_kept_is_found() {
        for _ in 0..ROUNDS {
            if let Err(found) = judged_with_late_commits("ProducerKeptAfterCut", LATE).await {
                println!("found: {found}");
                return;
            }
        }
        panic!("no late commit was found to do harm");
    }

    /// Whether the others pass the same before they give it away is a matter of milliseconds.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_expulsion_that_is_ignored_is_found() {
        for _ in 0..5 {
            if let Err(findings) = judged_with_an_expelled_member("ExpulsionIgnored").await {
                assert!(findings.contains("doubled"), "{findings}");
                return;
            }
        }
        panic!("nothing was found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_have_lost_their_brokers_are_replaced() {
    let (scene, proxy) = behind_a_proxy().await;
    are_lost(&asking_often(scene), &proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_have_lost_their_brokers_are_replaced_in_kip_848() {
    let (scene, proxy) = behind_a_proxy().await;
    are_lost(&asking_often(scene.in_consumer_protocol()), &proxy).await;
}

fn asking_often(scene: Scene) -> Scene {
    scene.with(
        "ORCH_KAFKA_CONSUMER_TOPIC_METADATA_REFRESH_INTERVAL_MS",
        "500",
    )
}

/// For a while no answer names a broker, as when the controller has fenced them all: librdkafka (2.12) then forgets them,
/// mostly for good (its issue #5301).
async fn are_lost(scene: &Scene, proxy: &Proxy) {
    let load = scene.load(PER_SECOND);
    let app = start(scene, NONE);
    let lost = |line: &str| line.contains("the consumer has lost its brokers");
    let mut left = TRIES;
    loop {
        scene.wait_for_progress(200).await;
        let before = app.line_count();
        // Answers to the producers bite, too; so not always as many.
        let nowhere = Plan::new(Api::Metadata, Fault::NameNoBroker).times(2 + left % 3);
        let nowhere = proxy.inflict(nowhere);
        has_bitten("Metadata NameNoBroker", &nowhere, 2 + left % 3).await;
        tokio::select! {
            told = app.wait_for_line_after(before, LIMIT, lost) => {
                told.unwrap();
                break;
            }
            () = scene.wait_for_progress(2_000) => {}
        }
        left -= 1;
        assert!(left > 0, "void: librdkafka found its brokers again");
    }
    scene.wait_for_progress(200).await;
    let inputs = load.stop().await;
    scene.finish(&inputs, &[&app]).await;
}
