//! What is known of the topics that are written to: whether they exist, whether they are ours to see, how large a batch
//! they take. Asked by the committer for the worker, and by the producer for its batch size. It must never create a
//! topic, and never take a silent broker for a missing topic.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orchestrator_core::Topic;
use orchestrator_core::ports::TopicFacts;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{ClientConfig, ClientContext};

use super::ffi;
use crate::telemetry::kafka_log;

/// How long the broker may take to answer one question.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// For how long an answer is believed: a limit is seldom changed, a missing topic may be created any moment.
const KNOWN_FOR: Duration = Duration::from_secs(60);
const ABSENT_FOR: Duration = Duration::from_secs(2);
/// The topics remembered at most; records may choose them.
const MAX_REMEMBERED: usize = 10_000;
/// The longest name a topic can have.
const MAX_NAME: usize = 249;
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
/// The broker's default of it.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

/// Looks up topics and remembers the answers; clones share them.
#[derive(Clone)]
pub struct TopicCatalog {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ClientConfig,
    admin: Mutex<Arc<Admin>>,
    answers: Mutex<HashMap<Topic, Answer>>,
}

/// The client that asks.
struct Admin(AdminClient<Quiet>);

impl Drop for Admin {
    /// What comes next is to wait for the thread that takes in answers, and that sleeps for as long as the wall clock was
    /// set back (`docs/adr/0007-wall-clock.md`). An answer wakes it: this question librdkafka refuses by itself, at once.
    fn drop(&mut self) {
        let refused = [ResourceSpecifier::Broker(0), ResourceSpecifier::Broker(1)];
        let options = AdminOptions::new();
        drop(self.0.describe_configs(&refused, &options));
    }
}

#[derive(Clone, Copy)]
struct Answer {
    facts: TopicFacts,
    at: Instant,
}

impl Answer {
    fn is_believed(self, now: Instant) -> bool {
        let time = match self.facts {
            TopicFacts::Known { .. } => KNOWN_FOR,
            TopicFacts::Missing | TopicFacts::Forbidden => ABSENT_FOR,
        };
        now.saturating_duration_since(self.at) < time
    }
}

/// Of errors the client tells nothing by itself: each question has its own answer.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka_log(level, facility, message);
    }

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl TopicCatalog {
    /// A catalog that asks by a client of its own. Succeeds where no broker answers yet.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn new(client: &ClientConfig) -> Result<Self, KafkaError> {
        let mut client = client.clone();
        // For a producer, which an admin client is to librdkafka, a look would create what it looks for.
        client.set("allow.auto.create.topics", "false");
        // Its lines wait until the next question, so there had better be few of them.
        client.set_log_level(RDKafkaLogLevel::Warning);
        let shared = Shared {
            admin: Mutex::new(Arc::new(Admin(client.create_with_context(Quiet)?))),
            settings: client,
            answers: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// What is known of a topic, from the broker or from a recent answer of its.
    ///
    /// Cancel safety: an answer that nobody waits for is lost, nothing else.
    ///
    /// # Errors
    /// The broker could not be asked; what is to be done about it.
    pub async fn facts(&self, topic: &Topic) -> Result<TopicFacts, String> {
        let known = self.answers().get(topic).copied();
        match known {
            Some(answer) if answer.is_believed(Instant::now()) => Ok(answer.facts),
            _ => self.ask(topic).await,
        }
    }

    /// The smallest limit of those topics that are known, if any is; `afresh` believes no earlier answer.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    pub async fn smallest_limit(
        &self,
        topics: &[Topic],
        afresh: bool,
    ) -> Result<Option<usize>, String> {
        let mut smallest = None;
        for topic in topics {
            let facts = if afresh {
                self.ask(topic).await?
            } else {
                self.facts(topic).await?
            };
            if let TopicFacts::Known { max_message_bytes } = facts {
                smallest =
                    Some(smallest.map_or(max_message_bytes, |s: usize| s.min(max_message_bytes)));
            }
        }
        Ok(smallest)
    }

    async fn ask(&self, topic: &Topic) -> Result<TopicFacts, String> {
        // Some of these librdkafka cannot even be asked about.
        if !is_legal_name(topic) {
            return Ok(TopicFacts::Missing);
        }
        let facts = match self.existence(topic).await? {
            Existence::There => self.limit(topic).await?,
            Existence::Missing => TopicFacts::Missing,
            Existence::Forbidden => TopicFacts::Forbidden,
        };
        let now = Instant::now();
        let mut answers = self.answers();
        if answers.len() >= MAX_REMEMBERED {
            answers.retain(|_, answer| answer.is_believed(now));
        }
        if answers.len() < MAX_REMEMBERED || answers.contains_key(topic) {
            answers.insert(topic.clone(), Answer { facts, at: now });
        }
        Ok(facts)
    }

    async fn existence(&self, topic: &Topic) -> Result<Existence, String> {
        let (catalog, name) = (self.clone(), topic.clone());
        let look = move || {
            let admin = catalog.admin();
            let client = admin.0.inner();
            let metadata = client.fetch_metadata(Some(&name), ANSWER_PATIENCE);
            ffi::serve_logs(client);
            let metadata = metadata.map_err(|error| {
                catalog.renew(&admin);
                catalog.unanswered(&name, &error)
            })?;
            let found = metadata.topics().iter().find(|t| t.name() == &*name);
            Ok(existence(found.map(|topic| topic.error().map(Code::from))))
        };
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|_| format!("looking up the topic {topic} was broken off"))?
    }

    async fn limit(&self, topic: &Topic) -> Result<TopicFacts, String> {
        let options = AdminOptions::new().request_timeout(Some(ANSWER_PATIENCE));
        let resource = ResourceSpecifier::Topic(topic);
        let admin = self.admin();
        let described = admin.0.describe_configs([&resource], &options);
        let described = described
            .await
            .map_err(|error| self.unanswered(topic, &error))?;
        let code = match described.into_iter().next() {
            Some(Ok(resource)) => {
                let value = resource
                    .get(MAX_MESSAGE_BYTES)
                    .and_then(|e| e.value.as_ref());
                return Ok(TopicFacts::Known {
                    max_message_bytes: value
                        .and_then(|value| value.parse().ok())
                        .unwrap_or(DEFAULT_MAX_MESSAGE_BYTES),
                });
            }
            Some(Err(code)) => code,
            None => Code::Unknown,
        };
        match code {
            Code::UnknownTopicOrPartition => Ok(TopicFacts::Missing),
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                tracing::info!(
                    %topic,
                    "the configuration of the topic may not be read, so its max.message.bytes is taken to be the \
                     broker's default of {DEFAULT_MAX_MESSAGE_BYTES}: allow DescribeConfigs on it"
                );
                Ok(TopicFacts::Known {
                    max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
                })
            }
            code => Err(self.unanswered(topic, &KafkaError::AdminOp(code))),
        }
    }

    fn unanswered(&self, topic: &Topic, error: &KafkaError) -> String {
        format!(
            "cannot ask the brokers {} (ORCH_BOOTSTRAP_SERVERS) about the topic {topic}: {error}",
            self.brokers()
        )
    }

    fn admin(&self) -> Arc<Admin> {
        Arc::clone(&self.lock_admin())
    }

    /// Another client in the place of one that finds no broker: it may never find one again (`lost_brokers.rs`).
    fn renew(&self, admin: &Arc<Admin>) {
        let mut current = self.lock_admin();
        if Arc::ptr_eq(&current, admin)
            && let Ok(another) = self.shared.settings.create_with_context(Quiet)
        {
            *current = Arc::new(Admin(another));
        }
    }

    fn lock_admin(&self) -> MutexGuard<'_, Arc<Admin>> {
        self.shared
            .admin
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn brokers(&self) -> &str {
        self.shared
            .settings
            .get("bootstrap.servers")
            .unwrap_or_default()
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Topic, Answer>> {
        self.shared
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TopicCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicCatalog")
            .field("brokers", &self.brokers())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existence {
    There,
    Missing,
    Forbidden,
}

/// What the metadata says: no topic, a topic, or a topic with an error.
fn existence(found: Option<Option<Code>>) -> Existence {
    match found {
        None
        | Some(Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic)) => {
            Existence::Missing
        }
        Some(Some(Code::TopicAuthorizationFailed)) => Existence::Forbidden,
        // Others pass: a leader is being elected, say.
        Some(_) => Existence::There,
    }
}

/// Kafka's rule for names.
fn is_legal_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_metadata_says_of_a_topic() {
        for (found, expected) in [
            (Some(None), Existence::There),
            (Some(Some(Code::LeaderNotAvailable)), Existence::There),
            (
                Some(Some(Code::UnknownTopicOrPartition)),
                Existence::Missing,
            ),
            (Some(Some(Code::InvalidTopic)), Existence::Missing),
            (
                Some(Some(Code::TopicAuthorizationFailed)),
                Existence::Forbidden,
            ),
            (None, Existence::Missing),
        ] {
            assert_eq!(existence(found), expected, "{found:?}");
        }
    }

    #[test]
    fn names_that_no_topic_can_have() {
        for name in ["orders", "a.b_c-9", &"x".repeat(249)] {
            assert!(is_legal_name(name), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "a\0", "ü", &"x".repeat(250)] {
            assert!(!is_legal_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_absent_is_believed_for_less_long() {
        let at = Instant::now();
        let believed = |facts, after| Answer { facts, at }.is_believed(at + after);
        let known = TopicFacts::Known {
            max_message_bytes: 1,
        };
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(30));
        assert!(believed(known, long));
        assert!(!believed(known, 2 * long));
        for absent in [TopicFacts::Missing, TopicFacts::Forbidden] {
            assert!(believed(absent, short));
            assert!(!believed(absent, long));
        }
    }
}
