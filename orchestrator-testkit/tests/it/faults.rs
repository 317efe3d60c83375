//! Brokers that are killed, paused, restarted and ended.

use std::net::TcpStream;
use std::time::Duration;

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::{Kafka, KafkaKind, KafkaOptions};
use orchestrator_testkit::reader::{Isolation, Until, read_all};
use orchestrator_testkit::writer::{WriteRecord, write};

const MINUTE: Duration = Duration::from_secs(60);

async fn count(bootstrap: &str, topic: &str) -> usize {
    read_all(
        bootstrap,
        &[topic],
        Isolation::Committed,
        Until::End,
        MINUTE,
    )
    .await
    .unwrap()
    .len()
}

fn records(count: usize) -> Vec<WriteRecord> {
    (0..count)
        .map(|i| WriteRecord::new(format!("value {i}")))
        .collect()
}

#[tokio::test]
async fn a_broker_keeps_its_data_through_kill_and_restart_and_goes_with_its_value() {
    let options = KafkaOptions::new()
        .local()
        .property("group.min.session.timeout.ms", "1000");
    let kafka = Kafka::start(options).unwrap();
    assert_eq!(kafka.kind(), KafkaKind::Local);
    let folder = kafka.folder().unwrap().to_owned();
    let written = std::fs::read_to_string(folder.join("server.properties")).unwrap();
    assert!(written.contains("group.min.session.timeout.ms=1000\n"));

    let bootstrap = kafka.bootstrap_servers().to_owned();
    let topic = fresh("kept");
    Admin::new(&bootstrap)
        .unwrap()
        .create_topic(&topic, 2, &[])
        .await
        .unwrap();
    write(&bootstrap, &topic, records(1_000)).await.unwrap();

    kafka.kill().unwrap();
    assert!(!kafka.is_running().unwrap());
    assert!(kafka.pause().is_err(), "a dead broker cannot be paused");
    assert!(TcpStream::connect(&bootstrap).is_err());
    kafka.restart().unwrap();
    assert_eq!(count(&bootstrap, &topic).await, 1_000);

    // A paused broker accepts connections, by the kernel, and answers nothing.
    kafka.pause().unwrap();
    let topics = [topic.as_str()];
    let short = Duration::from_millis(300);
    let paused = read_all(&bootstrap, &topics, Isolation::Committed, Until::End, short);
    let answered = tokio::time::timeout(Duration::from_millis(500), paused).await;
    assert!(!matches!(answered, Ok(Ok(_))), "a paused broker answered");
    kafka.resume().unwrap();
    assert_eq!(count(&bootstrap, &topic).await, 1_000);

    kafka.terminate().unwrap();
    assert!(!kafka.is_running().unwrap());
    kafka.restart().unwrap();
    write(&bootstrap, &topic, records(10)).await.unwrap();
    assert_eq!(count(&bootstrap, &topic).await, 1_010);

    drop(kafka);
    assert!(TcpStream::connect(&bootstrap).is_err());
    assert!(!folder.exists());
}

#[test]
fn a_broker_that_cannot_start_shows_its_log() {
    let options = KafkaOptions::new()
        .local()
        .property("log.segment.bytes", "many");
    let error = Kafka::start(options).unwrap_err().to_string();
    assert!(error.contains("log.segment.bytes"), "{error}");
}
