//! Applications that keep their failures themselves: the examples' store and tracker in real pipelines, and trackers
//! that do everything wrong.

mod store;
mod unruly;
mod webhook;

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator_runtime::core::{Context, Output, Record, TransformError, transform_fn};
use orchestrator_runtime::{
    Builder, CancellationToken, Config, Drained, Handle, Orchestrator, RunError,
};
use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::writer::{WriteRecord, write};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);

/// Every so many records one is bad.
const ONE_IN: i64 = 10;

fn copy(record: &Record, _: &Context<'_>) -> Result<Output, TransformError> {
    if record.value() == Some(b"bad") {
        return Err(TransformError::permanent("bad"));
    }
    Ok(Output::new(record.value().unwrap_or_default().to_vec()))
}

/// Fresh topics, the source with so many records in its only partition; the last of every ten is bad.
async fn topics(records: i64) -> String {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let admin = Admin::new(bootstrap).unwrap();
    let source = fresh("custom");
    for topic in [&source, &format!("{source}.out")] {
        admin.create_topic(topic, 1, &[]).await.unwrap();
    }
    add_records(&source, records).await;
    source
}

/// Writes whole tens of records.
async fn add_records(source: &str, records: i64) {
    let values = (0..records).map(|at| if is_bad(at) { "bad" } else { "good" });
    let records: Vec<_> = values.map(WriteRecord::new).collect();
    let bootstrap = Kafka::shared().bootstrap_servers();
    write(bootstrap, source, records).await.unwrap();
}

fn is_bad(offset: i64) -> bool {
    offset % ONE_IN == ONE_IN - 1
}

/// A pipeline that skips what fails.
fn builder(
    source: &str,
    more: &[(&str, &str)],
) -> Builder<impl orchestrator_runtime::core::Transformer + use<>> {
    let target = format!("{source}.out");
    let vars = [
        (
            "ORCH_BOOTSTRAP_SERVERS",
            Kafka::shared().bootstrap_servers(),
        ),
        ("ORCH_SOURCE_TOPICS", source),
        ("ORCH_TARGET_TOPIC", &target),
        ("ORCH_GROUP_ID", source),
        ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
    ];
    let vars = vars.iter().chain(more);
    let vars = vars.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Orchestrator::builder(Config::from_map(vars).unwrap()).transformer(transform_fn(copy))
}

/// A pipeline that runs.
struct Running {
    source: String,
    handle: Handle,
    drain: CancellationToken,
    running: JoinHandle<Result<Drained, RunError>>,
}

fn run(source: &str, built: Orchestrator<impl orchestrator_runtime::core::Transformer>) -> Running {
    let (handle, drain) = (built.handle(), CancellationToken::new());
    Running {
        source: source.to_owned(),
        handle,
        running: tokio::spawn(built.run(drain.clone())),
        drain,
    }
}

impl Running {
    async fn wait_for_committed(&self, next: i64) {
        let admin = Admin::new(Kafka::shared().bootstrap_servers()).unwrap();
        let expected = BTreeMap::from([(0, next)]);
        let committed = admin.wait_for_committed(&self.source, &self.source, &expected, LIMIT);
        committed.await.unwrap();
    }

    async fn drain(self) -> Drained {
        self.drain.cancel();
        let drained = tokio::time::timeout(LIMIT, self.running).await;
        drained.unwrap().unwrap().unwrap()
    }
}
