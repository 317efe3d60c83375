//! Processes of one pipeline, the example app, whose membership is watched from outside: what they pass, and when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::orders::{Orders, expected_output};
use orchestrator_testkit::process::{Process, Program, Signal, workspace_binary};
use orchestrator_testkit::reader::{Isolation, Until, read_all};
use orchestrator_testkit::writer::write;

use super::driver::{DEADLINE, Protocol};

const PARTITIONS: i32 = 4;

/// One pipeline's topics and group, and what was written to it.
pub(crate) struct Crew {
    bootstrap: String,
    admin: Admin,
    source: String,
    target: String,
    variables: BTreeMap<&'static str, String>,
    written: u64,
}

impl Crew {
    pub(crate) async fn new(bootstrap: &str, protocol: Protocol) -> Self {
        let admin = Admin::new(bootstrap).unwrap();
        let source = fresh("crew");
        let target = format!("{source}.out");
        for topic in [&source, &target] {
            admin.create_topic(topic, PARTITIONS, &[]).await.unwrap();
        }
        let mut variables = BTreeMap::from([
            ("ORCH_BOOTSTRAP_SERVERS", bootstrap.to_owned()),
            ("ORCH_SOURCE_TOPICS", source.clone()),
            ("ORCH_TARGET_TOPIC", target.clone()),
            ("ORCH_GROUP_ID", source.clone()),
            ("ORCH_HTTP_ADDR", "off".to_owned()),
            (
                "RUST_LOG",
                "info,orchestrator_runtime::kafka=debug".to_owned(),
            ),
        ]);
        if protocol == Protocol::Kip848 {
            variables.insert("ORCH_KAFKA_CONSUMER_GROUP_PROTOCOL", "consumer".to_owned());
        }
        Self {
            bootstrap: bootstrap.to_owned(),
            admin,
            source,
            target,
            variables,
            written: 0,
        }
    }

    pub(crate) fn with(mut self, key: &'static str, value: &str) -> Self {
        self.variables.insert(key, value.to_owned());
        self
    }

    /// A process whose name it finds itself.
    pub(crate) fn program(&self) -> Program {
        Program::new(workspace_binary("example-app", &[]).unwrap()).envs(self.variables.clone())
    }

    /// A process of that name.
    pub(crate) fn start(&self, instance: &str) -> Process {
        let program = self.program().env("ORCH_INSTANCE_ID", instance);
        program.start().unwrap()
    }

    /// Two processes that have half of the partitions each, and have passed something.
    pub(crate) async fn two(&mut self) -> (Process, Process) {
        let (a, b) = (self.start("a"), self.start("b"));
        has_been_given(&b, 0, PARTITIONS / 2).await;
        has_been_given(&a, 0, PARTITIONS / 2).await;
        self.pass_some(DEADLINE).await;
        (a, b)
    }

    /// Writes an order to each partition, and waits until all of them are passed; how long that took.
    pub(crate) async fn pass_some(&mut self, limit: Duration) -> Duration {
        let began = Instant::now();
        let orders = self.written..self.written + u64::try_from(PARTITIONS).unwrap();
        self.written = orders.end;
        let records = Orders::new(1).records(orders).zip(0..);
        let records = records.map(|(record, partition)| record.partition(partition));
        write(&self.bootstrap, &self.source, records).await.unwrap();
        let ends = self.admin.end_offsets(&self.source, Isolation::Committed);
        let ends = ends.await.unwrap();
        let passed = self
            .admin
            .wait_for_committed(&self.source, &self.source, &ends, limit);
        passed.await.unwrap();
        began.elapsed()
    }

    /// Drains the processes that are left, one after the other, and checks what has come out.
    pub(crate) async fn drain_all<const N: usize>(&self, processes: [&Process; N]) {
        for process in processes {
            ask_to_drain(process);
            assert_eq!(exit_code(process).await, Some(0));
        }
        self.check().await;
    }

    /// Each order that was written has come out once.
    async fn check(&self) {
        let topics = [self.target.as_str()];
        let read = read_all(
            &self.bootstrap,
            &topics,
            Isolation::Committed,
            Until::End,
            DEADLINE,
        );
        let mut outputs = read.await.unwrap();
        outputs.sort_by(|a, b| a.value_text().cmp(b.value_text()));
        let outputs: Vec<_> = outputs.iter().map(|output| output.value_text()).collect();
        let orders = Orders::new(1).range(0..self.written);
        let expected = orders.filter_map(|order| expected_output(order.value.as_bytes()));
        let mut expected: Vec<_> = expected.collect();
        expected.sort();
        assert_eq!(outputs, expected);
    }
}

/// Waits until a process has been given so many partitions since its `first`th line.
pub(crate) async fn has_been_given(process: &Process, first: usize, partitions: i32) {
    let given = || {
        let lines = process.lines().into_iter().skip(first);
        lines
            .filter(|l| l.text.contains("partition assigned"))
            .count()
    };
    let wanted = usize::try_from(partitions).unwrap();
    let waited =
        orchestrator_testkit::wait::until("partitions", DEADLINE, async || given() >= wanted);
    if let Err(error) = waited.await {
        panic!("{error}: {:#?}", process.lines());
    }
}

/// Asks a process to drain.
pub(crate) fn ask_to_drain(process: &Process) {
    process.signal(Signal::Term).unwrap();
}

/// Waits until a process has ended, and gives its exit code.
pub(crate) async fn exit_code(process: &Process) -> Option<i32> {
    process.wait(DEADLINE).await.unwrap().code()
}
