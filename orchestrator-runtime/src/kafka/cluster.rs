//! Asks the brokers which cluster they are. Called once a run, before the ledger is opened, whose rows say so. It must
//! never give up on brokers that are away, nor hold up whoever has stopped waiting.

use std::thread;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};
use tokio::sync::oneshot;

use super::client_config;
use crate::config::Config;
use crate::telemetry::kafka_log;

/// How long the brokers may take to answer before they are asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// Once there is metadata the id is known or never will be.
const ID_PATIENCE: Duration = Duration::from_millis(100);

/// A client that only asks, and logs what librdkafka says.
struct Asking;

impl ClientContext for Asking {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka_log(level, facility, message);
    }

    /// Each is logged by librdkafka too.
    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for Asking {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

/// The id of the cluster; empty if the brokers tell none, as those before 0.10.1 do. Waits for as long as no broker
/// answers.
///
/// Cancel safety: the asking ends by itself, and nobody waits for it.
///
/// # Errors
/// A client that cannot be made.
pub(crate) async fn cluster_id(config: &Config) -> Result<String, String> {
    let client = client_config::admin(config);
    let topic = config.kafka.source_topics.first().cloned();
    let (answer, answered) = oneshot::channel();
    thread::Builder::new()
        .name("cluster-id".to_owned())
        .spawn(move || ask(client, topic.as_deref(), answer))
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    answered
        .await
        .unwrap_or_else(|_| Err("the thread that asks for the cluster's id has ended".to_owned()))
}

fn ask(
    mut client: ClientConfig,
    topic: Option<&str>,
    answer: oneshot::Sender<Result<String, String>>,
) {
    // For a producer, a look would create what it looks for.
    client.set("allow.auto.create.topics", "false");
    let client: BaseProducer<Asking> = match client.create_with_context(Asking) {
        Ok(client) => client,
        Err(error) => return told(answer, Err(format!("cannot create a client: {error}"))),
    };
    while !answer.is_closed() {
        // One topic is enough, and much less than all of a large cluster's.
        match client.client().fetch_metadata(topic, ANSWER_PATIENCE) {
            Ok(_) => {
                let id = client.client().fetch_cluster_id(ID_PATIENCE);
                return told(answer, Ok(id.unwrap_or_default()));
            }
            Err(error) => tracing::debug!(%error, "the cluster's id is not known yet"),
        }
        // Serves librdkafka's log lines meanwhile.
        client.poll(PAUSE);
    }
}

fn told(answer: oneshot::Sender<Result<String, String>>, what: Result<String, String>) {
    if answer.send(what).is_err() {
        tracing::debug!("nobody waits for the cluster's id any more");
    }
}
