//! What a test of faults stands on: a broker, topics, a group, the example app as a process, and the judgement at the
//! end. It starts nothing by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use orchestrator_runtime::Config;
use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::audit::{Client, Identity, Ledger, Scope};
use orchestrator_testkit::kafka::{Kafka, KafkaOptions};
use orchestrator_testkit::process::{Process, Program, Signal, workspace_binary};
use orchestrator_testkit::reader::{Isolation, ReadRecord, Until, read_all};
use orchestrator_testkit::wait;
use orchestrator_testkit::wall_clock::WallClock;
use orchestrator_testkit::writer::{WriteRecord, write};

use super::exact::{Fate, Input, check, next_offsets};
use super::load::Load;

/// For whatever should take seconds at the most.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Sessions of two seconds and time-outs that are enforced at once, so that a test sees many faults in little time.
/// What waits for what stays the same.
pub(crate) fn impatient() -> KafkaOptions {
    [
        ("group.min.session.timeout.ms", "1000"),
        ("group.consumer.min.session.timeout.ms", "1000"),
        ("group.consumer.session.timeout.ms", "2000"),
        ("group.consumer.min.heartbeat.interval.ms", "100"),
        ("group.consumer.heartbeat.interval.ms", "300"),
        (
            "transaction.abort.timed.out.transaction.cleanup.interval.ms",
            "250",
        ),
    ]
    .into_iter()
    .fold(KafkaOptions::new().own(), |options, (key, value)| {
        options.property(key, value)
    })
}

/// The impatient broker that these tests share.
pub(crate) fn shared() -> &'static Kafka {
    static SHARED: OnceLock<Kafka> = OnceLock::new();
    SHARED.get_or_init(|| Kafka::start(impatient()).unwrap())
}

/// Topics and a group of a test's own.
pub(crate) struct Scene {
    pub(crate) bootstrap: String,
    pub(crate) admin: Admin,
    pub(crate) sources: Vec<String>,
    pub(crate) target: String,
    pub(crate) dlq: String,
    pub(crate) group: String,
    variables: BTreeMap<String, String>,
    features: &'static [&'static str],
    clock: Option<Arc<WallClock>>,
}

impl Scene {
    /// Source topics, target and dead-letter queue with as many partitions each.
    pub(crate) async fn new(kafka: &Kafka, sources: usize, partitions: i32) -> Self {
        let admin = Admin::new(kafka.bootstrap_servers()).unwrap();
        let sources: Vec<_> = (0..sources).map(|_| fresh("orders")).collect();
        for source in &sources {
            admin.create_topic(source, partitions, &[]).await.unwrap();
        }
        Self::reading(kafka, sources, partitions).await
    }

    /// A group with target and dead-letter queue of its own that reads topics which are there.
    pub(crate) async fn reading(kafka: &Kafka, sources: Vec<String>, partitions: i32) -> Self {
        let bootstrap = kafka.bootstrap_servers().to_owned();
        let group = fresh("group");
        let scene = Self {
            target: format!("{group}.out"),
            dlq: format!("{group}.dlq"),
            variables: BTreeMap::new(),
            features: &[],
            clock: None,
            admin: Admin::new(&bootstrap).unwrap(),
            bootstrap,
            sources,
            group,
        };
        for topic in [&scene.target, &scene.dlq] {
            let created = scene.admin.create_topic(topic, partitions, &[]);
            created.await.unwrap();
        }
        let (sources, bootstrap) = (scene.sources.join(","), scene.bootstrap.clone());
        let (target, dlq, group) = (scene.target.clone(), scene.dlq.clone(), scene.group.clone());
        scene
            .with("ORCH_BOOTSTRAP_SERVERS", bootstrap)
            .with("ORCH_SOURCE_TOPICS", sources)
            .with("ORCH_TARGET_TOPIC", target)
            .with("ORCH_DLQ_TOPIC", dlq)
            .with("ORCH_GROUP_ID", group)
            .with("ORCH_ATOMIC_ON_POISON", "DLQ")
            .with("ORCH_HTTP_ADDR", "off")
            .with("ORCH_KAFKA_CONSUMER_SESSION_TIMEOUT_MS", "2000")
            .with("ORCH_KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS", "300")
    }

    /// Sets a variable for all that is started.
    pub(crate) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.variables.insert(key.to_owned(), value.into());
        self
    }

    /// What a variable was set to.
    pub(crate) fn variable(&self, key: &str) -> Option<&str> {
        self.variables.get(key).map(String::as_str)
    }

    /// With the example app built with these features.
    pub(crate) fn built_with(mut self, features: &'static [&'static str]) -> Self {
        self.features = features;
        self
    }

    /// With all programs going by this clock.
    pub(crate) fn going_by(mut self, clock: &Arc<WallClock>) -> Self {
        self.clock = Some(Arc::clone(clock));
        self
    }

    /// In the group protocol of KIP-848, whose sessions are the broker's to set.
    pub(crate) fn in_consumer_protocol(mut self) -> Self {
        self.variables
            .retain(|key, _| !key.ends_with("SESSION_TIMEOUT_MS") && !key.ends_with("INTERVAL_MS"));
        self.with("ORCH_KAFKA_CONSUMER_GROUP_PROTOCOL", "consumer")
    }

    /// For a pipeline in this process.
    pub(crate) fn config(&self, more: &[(&str, &str)]) -> Config {
        let mut variables = self.variables.clone();
        variables.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        Config::from_map(variables).unwrap()
    }

    /// The example app, not started yet.
    pub(crate) fn program(&self) -> Program {
        self.program_built_with(self.features)
    }

    /// The example app, built with these features.
    pub(crate) fn program_built_with(&self, features: &[&str]) -> Program {
        let program = Program::new(workspace_binary("example-app", features).unwrap())
            .envs(self.variables.clone())
            .env("EXAMPLE_FAULTS", "true");
        match &self.clock {
            Some(clock) => clock.of(program),
            None => program,
        }
    }

    /// The example app under this instance id.
    pub(crate) fn start(&self, instance: &str) -> Process {
        let program = self.program().env("ORCH_INSTANCE_ID", instance);
        program.start().unwrap()
    }

    /// Orders that keep coming, into the first source.
    pub(crate) fn load(&self, per_second: u32) -> Load {
        self.load_into(0, per_second)
    }

    /// Orders that keep coming, into this source.
    pub(crate) fn load_into(&self, source: usize, per_second: u32) -> Load {
        Load::start(&self.bootstrap, &self.sources[source], per_second)
    }

    /// Writes records to a source; each with what has to become of it.
    pub(crate) async fn write(
        &self,
        source: usize,
        records: Vec<(WriteRecord, Fate)>,
    ) -> Vec<Input> {
        let topic = self.sources[source].clone();
        let (records, fates): (Vec<_>, Vec<_>) = records.into_iter().unzip();
        let written = write(&self.bootstrap, &topic, records.clone())
            .await
            .unwrap();
        let all = records.into_iter().zip(fates).zip(written);
        let inputs = all.map(|((record, fate), at)| Input {
            topic: topic.clone(),
            at,
            key: record.key,
            value: record.value,
            fate,
        });
        inputs.collect()
    }

    /// Waits until the group has passed this many more records than now.
    pub(crate) async fn wait_for_progress(&self, records: i64) {
        let mut before = None;
        let what = format!("the group {} passes {records} records", self.group);
        let progressed = wait::until(&what, LIMIT, async || {
            // A broker that has just come back may not know yet.
            let Some(passed) = self.passed().await else {
                return false;
            };
            passed >= *before.get_or_insert(passed) + records
        });
        progressed.await.unwrap();
    }

    /// How many records the group has passed, if the broker says so.
    pub(crate) async fn passed(&self) -> Option<i64> {
        let mut passed = 0;
        for source in &self.sources {
            let committed = self.admin.committed(&self.group, source).await;
            passed += committed.ok()?.values().sum::<i64>();
        }
        Some(passed)
    }

    /// Waits until the group has passed all that is in the sources now.
    pub(crate) async fn wait_until_caught_up(&self) {
        for source in &self.sources {
            let mut ends = BTreeMap::new();
            // A broker that has just come back has no leaders yet.
            let known = wait::until("the ends of the sources are known", LIMIT, async || {
                let answer = self.admin.end_offsets(source, Isolation::Committed).await;
                answer.is_ok_and(|found| {
                    ends = found;
                    !ends.is_empty()
                })
            });
            known.await.unwrap();
            let waiting = self
                .admin
                .wait_for_committed(&self.group, source, &ends, LIMIT);
            waiting.await.unwrap();
        }
    }

    /// Waits until the group has passed all of these.
    pub(crate) async fn wait_until_passed(&self, inputs: &[Input]) {
        for (topic, next) in next_offsets(inputs) {
            let waiting = self
                .admin
                .wait_for_committed(&self.group, &topic, &next, LIMIT);
            waiting.await.unwrap();
        }
    }

    /// What a read_committed reader sees of the target and the dead-letter queue.
    pub(crate) async fn visible(&self) -> (Vec<ReadRecord>, Vec<ReadRecord>) {
        (
            self.read(&self.target, Isolation::Committed).await,
            self.read(&self.dlq, Isolation::Committed).await,
        )
    }

    pub(crate) async fn read(&self, topic: &str, isolation: Isolation) -> Vec<ReadRecord> {
        read_all(&self.bootstrap, &[topic], isolation, Until::End, LIMIT)
            .await
            .unwrap()
    }

    /// What an auditor has to look at, with a ledger at this URL.
    pub(crate) fn audited(&self, ledger: &str) -> Scope {
        let id = Identity::Json("/order_id".to_owned());
        let client = Client::new(&self.bootstrap);
        let mut scope = Scope::new(client, &self.group, &self.sources[0], &self.target, id);
        scope.dead_letters = vec![self.dlq.clone()];
        scope.ledger = Some(Ledger::new(ledger, "event_failures").unwrap());
        scope
    }

    /// Waits until every transaction is decided, and that is written: a commit is answered before.
    pub(crate) async fn wait_until_all_is_decided(&self) -> Result<(), String> {
        for topic in [&self.target, &self.dlq] {
            let what = format!("every transaction in {topic} is decided");
            let decided = wait::until(&what, LIMIT, async || {
                let decided = self.admin.end_offsets(topic, Isolation::Committed).await;
                let written = self.admin.end_offsets(topic, Isolation::Uncommitted).await;
                decided.is_ok_and(|decided| written.is_ok_and(|written| decided == written))
            });
            decided.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Judges the end: outputs, dead letters, order, and the committed offsets.
    pub(crate) async fn judge(&self, inputs: &[Input]) -> Result<(), String> {
        self.wait_until_all_is_decided().await?;
        let (outputs, letters) = self.visible().await;
        check(inputs, &outputs, &letters)?;
        for (topic, next) in next_offsets(inputs) {
            let committed = self.admin.committed(&self.group, &topic).await.unwrap();
            if committed != next {
                return Err(format!(
                    "{topic} is committed to {committed:?}, not {next:?}"
                ));
            }
        }
        Ok(())
    }

    /// Waits until all inputs are passed, drains the processes and judges the end.
    pub(crate) async fn finish(&self, inputs: &[Input], processes: &[&Process]) {
        self.wait_until_passed(inputs).await;
        for process in processes {
            drain(process).await;
        }
        self.judge(inputs).await.unwrap();
    }
}

/// Drains a process by SIGTERM; it has to end well.
pub(crate) async fn drain(process: &Process) {
    process.signal(Signal::Term).unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{process:?} ended with {status}");
}
