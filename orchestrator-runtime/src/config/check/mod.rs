//! Rules across keys. Called once, on values that are each allowed by themselves; a rule is skipped when a key that it
//! speaks of is already refused. Rules about librdkafka's properties are in `kafka.rs`. Opens no socket.

mod kafka;

use std::collections::BTreeSet;

use super::keys::{self, Key, key};
use super::parse::is_topic;
use super::reader::Source;
use super::{AtomicOnPoison, Config, ConfigError, Delivery, FailureMode, Strategy};
use crate::kafka::client_config::Timings;

/// Adds what breaks a rule to the errors, and what is merely odd to the warnings.
pub(super) fn rules(mut config: Config, errors: &mut Vec<ConfigError>) -> Config {
    let suspects = errors
        .iter()
        .map(|error| error.key.trim_end_matches("_FILE").to_owned())
        .collect();
    let mut rules = Rules {
        config: &config,
        suspects,
        errors,
        warnings: Vec::new(),
    };
    rules.not_yet();
    rules.topics();
    rules.poison();
    rules.sizes();
    rules.ledger();
    rules.operation();
    rules.times();
    rules.group_protocol();
    rules.librdkafka();
    let warnings = rules.warnings;
    config.warnings.extend(warnings);
    config
}

struct Rules<'a> {
    config: &'a Config,
    suspects: BTreeSet<String>,
    errors: &'a mut Vec<ConfigError>,
    warnings: Vec<String>,
}

impl Rules<'_> {
    /// What is named but does not exist in this version.
    fn not_yet(&mut self) {
        if self.config.delivery == Delivery::AtLeastOnce {
            self.refuse(
                key!("DELIVERY"),
                &[],
                "is reserved and not available yet: EXACTLY_ONCE",
            );
        }
        let url = self
            .config
            .ledger
            .url
            .as_ref()
            .map_or("", |url| url.expose());
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let problem = match scheme {
            _ if url.is_empty() => return,
            "sqlite" if cfg!(feature = "sqlite") => return,
            "sqlite" => "needs the build feature `sqlite`",
            "postgres" | "postgresql" if cfg!(feature = "postgres") => return,
            "postgres" | "postgresql" => "needs the build feature `postgres`",
            "mysql" | "mariadb" if cfg!(feature = "mysql") => return,
            "mysql" | "mariadb" => "needs the build feature `mysql`",
            _ => {
                "allowed is sqlite://path, postgres://user:password@host/database, mysql://user:password@host/database"
            }
        };
        self.refuse(key!("DB_URL"), &[key!("DB_STRATEGY")], problem);
    }

    /// No topic is both read and written, or the pipeline would feed on itself.
    fn topics(&mut self) {
        let (kafka, failure) = (&self.config.kafka, &self.config.failure);
        let is_source = |topic: &str| kafka.source_topics.iter().any(|source| source == topic);
        if kafka.target_topic.as_deref().is_some_and(is_source) {
            self.refuse(
                key!("TARGET_TOPIC"),
                &[key!("SOURCE_TOPICS")],
                "is one of ORCH_SOURCE_TOPICS: outputs would be read again",
            );
        }
        let dlqs = kafka
            .source_topics
            .iter()
            .filter_map(|source| failure.dlq_for(source));
        for dlq in dlqs.collect::<BTreeSet<_>>() {
            if !is_topic(&dlq) {
                let problem = format!("makes {dlq:?}, which is longer than Kafka's 249 characters");
                self.refuse(key!("DLQ_TOPIC"), &[key!("SOURCE_TOPICS")], problem);
            }
            if is_source(&dlq) {
                let problem = format!(
                    "makes {dlq:?}, one of ORCH_SOURCE_TOPICS: dead letters would be read again"
                );
                self.refuse(key!("DLQ_TOPIC"), &[key!("SOURCE_TOPICS")], problem);
            }
            if kafka.target_topic.as_deref() == Some(dlq.as_str()) {
                let problem = format!(
                    "makes {dlq:?}, which is ORCH_TARGET_TOPIC: dead letters would be taken for outputs"
                );
                self.refuse(
                    key!("DLQ_TOPIC"),
                    &[key!("SOURCE_TOPICS"), key!("TARGET_TOPIC")],
                    problem,
                );
            }
        }
    }

    fn poison(&mut self) {
        let failure = &self.config.failure;
        let skips = failure.mode == FailureMode::SkipAndLog;
        let no_dlq = failure.dlq_topic.is_none();
        if !skips && failure.atomic_on_poison == AtomicOnPoison::Dlq && no_dlq {
            self.refuse(
                key!("ATOMIC_ON_POISON"),
                &[key!("DLQ_TOPIC"), key!("FAILURE_MODE")],
                "needs ORCH_DLQ_TOPIC, for example {topic}.dlq",
            );
        }
        if failure.crash_quarantine_after == 1 {
            self.refuse(
                key!("CRASH_QUARANTINE_AFTER"),
                &[],
                "must be 0 (never) or at least 2: one start tells nothing of which record ended it",
            );
        }
        if skips && self.is_given(key!("ATOMIC_ON_POISON")) {
            self.warn("ORCH_ATOMIC_ON_POISON has no effect with ORCH_FAILURE_MODE=SKIP_AND_LOG");
        }
        if skips && no_dlq && !self.config.ledger.is_strict() {
            self.warn(
                "ORCH_FAILURE_MODE=SKIP_AND_LOG with neither ORCH_DLQ_TOPIC nor a strict ledger (ORCH_DB_STRATEGY with \
                 ORCH_DB_DEGRADE_DONT_BLOCK=false): a record that fails may leave no trace but a log line",
            );
        }
        if !failure.dead_letter_records.is_empty() && no_dlq {
            self.refuse(
                key!("DEAD_LETTER_RECORDS"),
                &[key!("DLQ_TOPIC")],
                "needs ORCH_DLQ_TOPIC, for example {topic}.dlq",
            );
        }
        let strangers = failure
            .dead_letter_records
            .iter()
            .filter(|record| !self.config.kafka.source_topics.contains(&record.topic));
        let strangers: Vec<String> = strangers.map(ToString::to_string).collect();
        if !strangers.is_empty() {
            let problem = format!(
                "{} is of no topic in ORCH_SOURCE_TOPICS",
                strangers.join(", ")
            );
            self.refuse(
                key!("DEAD_LETTER_RECORDS"),
                &[key!("SOURCE_TOPICS")],
                problem,
            );
        }
        if failure.retry_backoff > failure.retry_backoff_max {
            self.refuse(
                key!("RETRY_BACKOFF_MS"),
                &[key!("RETRY_BACKOFF_MAX_MS")],
                format!(
                    "must not be above ORCH_RETRY_BACKOFF_MAX_MS ({})",
                    failure.retry_backoff_max.as_millis()
                ),
            );
        }
    }

    fn sizes(&mut self) {
        let batch = &self.config.batch;
        if batch.held_max_bytes < batch.max_bytes {
            self.warn("ORCH_HELD_MAX_BYTES is below ORCH_BATCH_MAX_BYTES: the tail of one full batch cannot be kept while its partition is held, and is read again");
        }
        if batch.prefetch_max_bytes < batch.max_bytes {
            self.warn("ORCH_PREFETCH_MAX_BYTES is below ORCH_BATCH_MAX_BYTES: batches cannot fill up from what was fetched ahead");
        }
    }

    fn ledger(&mut self) {
        let ledger = &self.config.ledger;
        if ledger.batch_budget < ledger.timeout {
            self.refuse(
                key!("DB_BATCH_BUDGET_MS"),
                &[key!("DB_TIMEOUT_MS")],
                format!(
                    "must not be below ORCH_DB_TIMEOUT_MS ({})",
                    ledger.timeout.as_millis()
                ),
            );
        }
        if ledger.strategy == Strategy::None && ledger.url.is_some() {
            self.warn("ORCH_DB_URL has no effect with ORCH_DB_STRATEGY=NONE");
        }
        if ledger.strategy == Strategy::None
            && self.is_given(key!("DB_DEGRADE_DONT_BLOCK"))
            && !ledger.degrade_dont_block
        {
            self.warn(
                "ORCH_DB_DEGRADE_DONT_BLOCK=false has no effect with ORCH_DB_STRATEGY=NONE, unless the application has a \
                 failure tracker of its own",
            );
        }
    }

    fn operation(&mut self) {
        let ops = &self.config.ops;
        let unit = Timings::of(self.config).unit_deadline;
        if ops.drain_timeout < unit {
            let unit = unit.as_millis();
            self.warn(&format!(
                "ORCH_DRAIN_TIMEOUT_MS is below the {unit} ms that a unit of work may take: a drain may abort one, which \
                 is then done again"
            ));
        }
        if ops.stall_timeout <= self.config.transform.timeout {
            self.warn(
                "ORCH_STALL_TIMEOUT_MS is not above ORCH_TRANSFORM_TIMEOUT_MS: one slow record makes /livez fail",
            );
        }
    }

    fn refuse(&mut self, key: &'static Key, with: &[&'static Key], problem: impl AsRef<str>) {
        let named = |key: &Key| format!("{}{}", self.config.prefix, key.name);
        if std::iter::once(&key)
            .chain(with)
            .any(|key| self.suspects.contains(&named(key)))
        {
            return;
        }
        let name = named(key);
        let given = self
            .config
            .effective
            .iter()
            .find(|effective| effective.key == name);
        let given = given.and_then(|effective| effective.value.as_deref());
        let problem = problem.as_ref().replace(keys::PREFIX, &self.config.prefix);
        self.errors.push(ConfigError::new(name, given, problem));
    }

    fn warn(&mut self, sentence: &str) {
        self.warnings
            .push(sentence.replace(keys::PREFIX, &self.config.prefix));
    }

    fn is_given(&self, key: &'static Key) -> bool {
        let name = format!("{}{}", self.config.prefix, key.name);
        self.config
            .effective
            .iter()
            .any(|effective| effective.key == name && effective.source != Source::Default)
    }
}
