//! A proxy in front of a real broker: what it does to whom, and that it says so.

use std::time::{Duration, Instant};

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::{Kafka, KafkaOptions};
use orchestrator_testkit::proxy::{Api, Bites, Fault, Plan, Proxy};
use orchestrator_testkit::reader::{Isolation, Until, read_all};
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::{Ending, WriteRecord, write_transaction};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MINUTE: Duration = Duration::from_secs(60);
const RECORDS: usize = 200;

fn records() -> impl Iterator<Item = WriteRecord> {
    (0..RECORDS).map(|i| WriteRecord::new(format!("value {i}")))
}

async fn topic(kafka: &Kafka) -> String {
    let topic = fresh("proxied");
    let admin = Admin::new(kafka.bootstrap_servers()).unwrap();
    admin.create_topic(&topic, 1, &[]).await.unwrap();
    topic
}

async fn visible(kafka: &Kafka, topic: &str) -> usize {
    let bootstrap = kafka.bootstrap_servers();
    let isolation = Isolation::Committed;
    let seen = read_all(bootstrap, &[topic], isolation, Until::End, MINUTE).await;
    seen.unwrap().len()
}

/// What a transaction through the proxy has put into the topic, and how long that took.
async fn transaction(kafka: &Kafka, proxy: &Proxy, topic: &str) -> Duration {
    let began = Instant::now();
    let written = write_transaction(proxy.bootstrap_servers(), topic, records(), Ending::Commit);
    written.await.unwrap();
    let took = began.elapsed();
    assert_eq!(visible(kafka, topic).await, RECORDS);
    took
}

async fn wait_for(bites: &Bites, count: u64) {
    wait::until("the fault bites", MINUTE, async || bites.bitten() == count)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_cuts_holds_and_brings_late_what_it_is_told_to() {
    let (kafka, proxy) = Proxy::start(KafkaOptions::new()).unwrap();
    // Each is repeated by the client, and none of them loses or doubles anything.
    for (api, fault) in [
        (Api::Produce, Fault::CutRequest),
        (Api::Produce, Fault::CutAnswer),
        (Api::AddPartitionsToTxn, Fault::CutAnswer),
        (Api::EndTxn, Fault::CutRequest),
        (Api::EndTxn, Fault::CutAnswer),
        (Api::EndTxn, Fault::LateRequest(Duration::from_millis(50))),
    ] {
        let topic = topic(&kafka).await;
        let bites = proxy.inflict(Plan::new(api, fault).times(1));
        transaction(&kafka, &proxy, &topic).await;
        wait_for(&bites, 1).await;
    }
    let held = Duration::from_secs(1);
    for fault in [Fault::HoldRequest(held), Fault::HoldAnswer(held)] {
        let topic = topic(&kafka).await;
        let bites = proxy.inflict(Plan::new(Api::EndTxn, fault).times(1));
        assert!(transaction(&kafka, &proxy, &topic).await >= held);
        assert_eq!(bites.bitten(), 1);
    }
}

/// A request by hand: the versions that the broker speaks, in the oldest form.
async fn ask(stream: &mut TcpStream, number: i32) {
    // Key, version, number; no client id.
    stream.write_i32(10).await.unwrap();
    stream.write_i16(Api::ApiVersions as i16).await.unwrap();
    stream.write_i16(0).await.unwrap();
    stream.write_i32(number).await.unwrap();
    stream.write_i16(-1).await.unwrap();
}

/// The number of the request that is answered next.
async fn answered(stream: &mut TcpStream) -> i32 {
    let length = stream.read_i32().await.unwrap();
    let mut answer = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    i32::from_be_bytes(answer[..4].try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_loses_is_never_answered_and_the_connection_stays() {
    let (_kafka, proxy) = Proxy::start(KafkaOptions::new()).unwrap();
    let mut stream = TcpStream::connect(proxy.bootstrap_servers()).await.unwrap();
    for fault in [Fault::LoseRequest, Fault::LoseAnswer] {
        let bites = proxy.inflict(Plan::new(Api::ApiVersions, fault).times(1));
        for number in [1, 2] {
            ask(&mut stream, number).await;
        }
        assert_eq!(answered(&mut stream).await, 2, "{fault:?}");
        assert_eq!(bites.bitten(), 1);
    }
}
