//! `load-test audit` on the topics of a program whose part is played by hand.

use std::time::Duration;

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::process::{Process, Program, Signal};
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::{WriteRecord, write};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(60);
const RECORDS: i64 = 5;

struct Topics {
    bootstrap: &'static str,
    group: String,
    source: String,
    target: String,
}

impl Topics {
    /// A program has passed all of its records.
    async fn passed() -> Self {
        let topics = Self {
            bootstrap: Kafka::shared().bootstrap_servers(),
            group: fresh("group"),
            source: fresh("in"),
            target: fresh("out"),
        };
        let admin = Admin::new(topics.bootstrap).unwrap();
        for topic in [&topics.source, &topics.target] {
            admin.create_topic(topic, 1, &[]).await.unwrap();
            topics.write(topic, 0..RECORDS).await;
        }
        let mut passed = TopicPartitionList::new();
        let next = Offset::Offset(RECORDS);
        passed
            .add_partition_offset(&topics.source, 0, next)
            .unwrap();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", topics.bootstrap)
            .set("group.id", &topics.group)
            .create()
            .unwrap();
        consumer.commit(&passed, CommitMode::Sync).unwrap();
        topics
    }

    async fn write(&self, topic: &str, range: std::ops::Range<i64>) {
        let records = range.map(|n| WriteRecord::new("order").key(n.to_string()));
        write(self.bootstrap, topic, records).await.unwrap();
    }

    fn audit(&self, more: &[&str]) -> Process {
        let program = Program::new(env!("CARGO_BIN_EXE_load-test"));
        let words = [
            "audit",
            "--bootstrap-servers",
            self.bootstrap,
            "--group-id",
            &self.group,
            "--source-topic",
            &self.source,
            "--target-topic",
            &self.target,
            "--id",
            "key",
        ];
        let words = words.iter().chain(more);
        let program = words.fold(program, |program, word| program.arg(*word));
        program.start().unwrap()
    }
}

async fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

#[tokio::test]
async fn an_audit_by_command_exits_by_what_it_finds() {
    let topics = Topics::passed().await;
    let status = topics.audit(&[]).wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0));

    let audit = topics.audit(&["--follow", "--http-addr", "127.0.0.1:0"]);
    let line = audit.wait_for_line(LIMIT, |line| line.starts_with("metrics: "));
    let line = line.await.unwrap();
    let address = line.trim_start_matches("metrics: http://");
    let address = address.trim_end_matches("/metrics").to_owned();
    let doubled = |page: &str, times: u32| {
        let (name, kind) = ("orch_audit_violations_total{", "kind=\"doubled\"");
        let mut lines = page.lines();
        lines.any(|line| {
            line.starts_with(name) && line.contains(kind) && line.ends_with(&format!(" {times}"))
        })
    };
    let followed = wait::until("all of it is audited", LIMIT, async || {
        let page = metrics(&address).await;
        let records = format!(" {RECORDS}");
        let all =
            |line: &str| line.starts_with("orch_audit_records_total{") && line.ends_with(&records);
        page.lines().any(all) && doubled(&page, 0)
    });
    followed.await.unwrap();

    topics.write(&topics.target, 0..1).await;
    let found = wait::until("the copy is found", LIMIT, async || {
        doubled(&metrics(&address).await, 1)
    });
    found.await.unwrap();
    audit.signal(Signal::Term).unwrap();
    assert_eq!(audit.wait(LIMIT).await.unwrap().code(), Some(1));
    let status = topics.audit(&[]).wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1));

    let audit = topics.audit(&["--dlq-topic", "is-not-there"]);
    assert_eq!(audit.wait(LIMIT).await.unwrap().code(), Some(2));
}
