//! Two pipelines inside an application that has a runtime, a metrics recorder, a subscriber and an HTTP server of its
//! own. The only test of this binary that sets anything up for the whole process.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusBuilder;
use orchestrator_runtime::core::{
    BoxFuture, Context, FailureRecord, FailureTracker, Output, Passed, Record, TrackerError,
    TransformError, transform_fn,
};
use orchestrator_runtime::telemetry::dedup_key;
use orchestrator_runtime::{CancellationToken, Config, Drained, Handle, Orchestrator, RunError};
use orchestrator_testkit::admin::{Admin, fresh};
use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::{WriteRecord, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Layer, SubscriberExt};

const LIMIT: Duration = Duration::from_secs(60);

/// The application's own subscriber: it asks for the dedup key itself.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeSet<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Seen {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct IsOurs(bool);
        impl Visit for IsOurs {
            fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
                self.0 |= format!("{value:?}") == "copied for the application";
            }
        }
        let mut ours = IsOurs(false);
        event.record(&mut ours);
        if ours.0 {
            self.0.lock().unwrap().insert(dedup_key().unwrap());
        }
    }
}

/// The application's own tracker.
#[derive(Clone, Default)]
struct Failures(Arc<Mutex<Vec<i64>>>);

impl FailureTracker for Failures {
    fn failed<'a>(
        &'a self,
        failures: &'a [FailureRecord],
    ) -> BoxFuture<'a, Result<(), TrackerError>> {
        let offsets = failures.iter().map(|failed| failed.record.offset());
        self.0.lock().unwrap().extend(offsets);
        Box::pin(std::future::ready(Ok(())))
    }

    fn committed<'a>(&'a self, _: &'a Passed) -> BoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn copy(record: &Record, _: &Context<'_>) -> Result<Output, TransformError> {
    if record.value() == Some(b"bad") {
        return Err(TransformError::permanent("bad"));
    }
    tracing::info!("copied for the application");
    Ok(Output::new(record.value().unwrap_or_default().to_vec()))
}

struct Pipeline {
    source: String,
    handle: Handle,
    drain: CancellationToken,
    running: JoinHandle<Result<Drained, RunError>>,
}

/// A pipeline over a fresh topic with these records.
async fn pipeline(values: &[&'static str], failures: &Failures) -> Pipeline {
    let bootstrap = Kafka::shared().bootstrap_servers();
    let admin = Admin::new(bootstrap).unwrap();
    let source = fresh("embedded");
    let target = format!("{source}.out");
    for topic in [&source, &target] {
        admin.create_topic(topic, 1, &[]).await.unwrap();
    }
    let records = values.iter().map(|value| WriteRecord::new(*value));
    write(bootstrap, &source, records.collect::<Vec<_>>())
        .await
        .unwrap();
    let vars = [
        ("ORCH_BOOTSTRAP_SERVERS", bootstrap),
        ("ORCH_SOURCE_TOPICS", &source),
        ("ORCH_TARGET_TOPIC", &target),
        ("ORCH_GROUP_ID", &source),
        ("ORCH_FAILURE_MODE", "SKIP_AND_LOG"),
    ];
    let vars = vars.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let built = Orchestrator::builder(Config::from_map(vars).unwrap())
        .transformer(transform_fn(copy))
        .failure_tracker(failures.clone())
        .build()
        .unwrap();
    let (handle, drain) = (built.handle(), CancellationToken::new());
    let running = tokio::spawn(built.run(drain.clone()));
    let all = [(0, i64::try_from(values.len()).unwrap())].into();
    let committed = admin.wait_for_committed(&source, &source, &all, LIMIT);
    committed.await.unwrap();
    Pipeline {
        source,
        handle,
        drain,
        running,
    }
}

async fn page(addr: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_live_in_an_application_with_everything_of_its_own() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(seen.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let failures = Failures::default();
    let first = pipeline(&["1", "bad", "3"], &failures).await;
    let second = pipeline(&["1", "2"], &failures).await;
    let router = Router::new()
        .route("/", get(async || "the application"))
        .nest("/first", first.handle.router())
        .nest("/second", second.handle.router());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(axum::serve(listener, router).into_future());

    assert!(page(addr, "/").await.ends_with("the application"));
    for (name, source) in [("first", &first.source), ("second", &second.source)] {
        let health = page(addr, &format!("/{name}/health")).await;
        assert!(
            health.contains(&format!(r#""pipeline":"{source}""#)),
            "{health}"
        );
        let metrics = page(addr, &format!("/{name}/metrics")).await;
        assert!(metrics.starts_with("HTTP/1.1 404"), "{metrics}");
    }
    let (a, b) = (&first.source, &second.source);
    for line in [
        format!(r#"orch_records_ok_total{{pipeline="{a}"}} 2"#),
        format!(r#"orch_records_skipped_total{{pipeline="{a}"}} 1"#),
        format!(r#"orch_records_ok_total{{pipeline="{b}"}} 2"#),
    ] {
        // The broker knows of a commit a little earlier.
        let counted = async || rendered.render().lines().any(|it| it == line);
        wait::until(&line, LIMIT, counted).await.unwrap();
    }
    assert_eq!(*failures.0.lock().unwrap(), [1]);
    let keys = [(a, 0), (a, 2), (b, 0), (b, 1)];
    let keys = keys.map(|(topic, offset)| format!("{topic}-0-{offset}"));
    assert_eq!(*seen.0.lock().unwrap(), BTreeSet::from(keys));

    // One ends, the other goes on.
    first.drain.cancel();
    let drained = first.running.await.unwrap().unwrap();
    assert_eq!((drained.counts.ok, drained.counts.failed), (2, 1));
    assert!(
        page(addr, "/first/readyz")
            .await
            .starts_with("HTTP/1.1 503")
    );
    assert!(
        page(addr, "/second/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    second.drain.cancel();
    assert_eq!(second.running.await.unwrap().unwrap().counts.ok, 2);
    serving.abort();
}
