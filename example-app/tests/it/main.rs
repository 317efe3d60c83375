//! The program around the transformer, as a shell or Kubernetes sees it: its exit codes, and its last words.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::{Process, Program, Signal};
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::writer::{WriteRecord, write};

const LIMIT: Duration = Duration::from_secs(60);

fn app() -> Program {
    Program::new(env!("CARGO_BIN_EXE_example-app")).env("ORCH_HTTP_ADDR", "off")
}

/// Topics with ten sound orders, and the app's settings for them.
struct Bed {
    admin: Admin,
    source: String,
    group: String,
    program: Program,
}

async fn bed() -> Bed {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let admin = Admin::new(bootstrap).unwrap();
    let (source, group) = (fresh("orders"), fresh("group"));
    let target = format!("{source}.out");
    for topic in [&source, &target] {
        admin.create_topic(topic, 2, &[]).await.unwrap();
    }
    let program = app().envs([
        ("ORCH_BOOTSTRAP_SERVERS", bootstrap),
        ("ORCH_SOURCE_TOPICS", &source),
        ("ORCH_TARGET_TOPIC", &target),
        ("ORCH_GROUP_ID", &group),
    ]);
    let bed = Bed {
        admin,
        source,
        group,
        program,
    };
    let orders: Vec<_> = Orders::new(1).records(0..10).collect();
    bed.write(orders).await;
    bed
}

impl Bed {
    async fn write(&self, records: Vec<WriteRecord>) {
        let bootstrap = Kafka::shared().bootstrap_servers();
        write(bootstrap, &self.source, records).await.unwrap();
    }

    async fn wait_until_passed(&self) {
        let ends = self.admin.end_offsets(&self.source, Isolation::Committed);
        let ends = ends.await.unwrap();
        let (group, source) = (&self.group, &self.source);
        let passed = self.admin.wait_for_committed(group, source, &ends, LIMIT);
        passed.await.unwrap();
    }
}

#[track_caller]
fn said(process: &Process, words: &str) {
    let lines = process.lines();
    assert!(lines.iter().any(|l| l.text.contains(words)), "{lines:#?}");
}

#[tokio::test]
async fn exit_0_drained() {
    let bed = bed().await;
    let process = bed.program.start().unwrap();
    bed.wait_until_passed().await;
    process.signal(Signal::Term).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(0));
    said(&process, "drained");
}

#[tokio::test]
async fn exit_2_configuration() {
    let process = app().env("ORCH_MAX_ATTEMPTS", "none").start().unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(2));
    // Every error at once.
    for key in [
        "BOOTSTRAP_SERVERS",
        "SOURCE_TOPICS",
        "GROUP_ID",
        "MAX_ATTEMPTS",
    ] {
        said(&process, &format!("ORCH_{key}"));
    }
}

#[tokio::test]
async fn exit_3_stopped_on_poison() {
    let bed = bed().await;
    bed.write(vec![WriteRecord::new("no order").partition(1)])
        .await;
    let stop = bed.program.clone().env("ORCH_ATOMIC_ON_POISON", "STOP");
    let process = stop.start().unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(3));
    said(&process, "stopped on poison");
}

#[tokio::test]
async fn exit_4_fenced_by_a_twin() {
    let bed = bed().await;
    let named = bed.program.clone().env("ORCH_INSTANCE_ID", "solo");
    let first = named.start().unwrap();
    bed.wait_until_passed().await;
    let _second = named.start().unwrap();
    // Fencing is seen at the next transaction, so there must be some.
    let fenced = async {
        loop {
            if let Some(status) = first.status().unwrap() {
                break status;
            }
            bed.write(Orders::new(2).records(0..10).collect()).await;
        }
    };
    let status = tokio::time::timeout(LIMIT, fenced).await.unwrap();
    assert_eq!(status.code(), Some(4));
    said(&first, "fenced by a twin");
}
