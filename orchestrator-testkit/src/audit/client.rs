//! How the auditor talks to Kafka: its settings, its patience, and its end. Everything that waits asks here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;

use super::AuditError;
use crate::reader::Isolation;

const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(20);

/// Where the cluster is and how to deal with it. Clones share the end.
#[derive(Clone)]
pub struct Client {
    servers: String,
    properties: Vec<(String, String)>,
    pub(super) patience: Duration,
    believes_aborted: bool,
    stop: Arc<AtomicBool>,
}

/// Properties may be secrets.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("servers", &self.servers)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Of the cluster with these bootstrap servers. Its patience is 90 s: longer than Kafka leaves a transaction
    /// open by default.
    pub fn new(servers: &str) -> Self {
        Self {
            servers: servers.to_owned(),
            properties: Vec::new(),
            patience: PATIENCE,
            believes_aborted: false,
            stop: Arc::default(),
        }
    }

    /// A librdkafka setting, for TLS and SASL say. What reading by the rules needs is set by the auditor and wins.
    #[must_use]
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((key.into(), value.into()));
        self
    }

    /// A bug to be planted, in an auditor that has to be caught with it: it reads what was aborted.
    #[doc(hidden)]
    #[must_use]
    pub fn planted_reading_aborted(mut self) -> Self {
        self.believes_aborted = true;
        self
    }

    /// How long the cluster may take for anything: an answer, the next record, the end of a transaction.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Ends whatever runs with this client, or a clone of it, with [`AuditError::Stopped`].
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Rests a moment; fails if it was asked to end.
    pub(super) fn pause(&self) -> Result<(), AuditError> {
        if self.is_stopped() {
            return Err(AuditError::Stopped);
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }

    /// Asks until there is an answer, or patience has run out.
    pub(super) fn patiently<T>(
        &self,
        what: impl fmt::Display,
        mut ask: impl FnMut() -> Result<T, KafkaError>,
    ) -> Result<T, AuditError> {
        let asked = Instant::now();
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) if asked.elapsed() >= self.patience => {
                    return Err(self.in_vain(what, error));
                }
                Err(_) => self.pause()?,
            }
        }
    }

    pub(super) fn in_vain(&self, what: impl fmt::Display, reason: impl fmt::Display) -> AuditError {
        AuditError::Kafka {
            what: what.to_string(),
            patience: self.patience,
            reason: reason.to_string(),
        }
    }

    /// A consumer that never subscribes and never commits: the group is only named.
    pub(super) fn consumer(
        &self,
        group: &str,
        isolation: Isolation,
    ) -> Result<BaseConsumer, AuditError> {
        let isolation = match self.believes_aborted {
            true => Isolation::Uncommitted,
            false => isolation,
        };
        let mut config = ClientConfig::new();
        config
            .set("fetch.queue.backoff.ms", "2")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "500");
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
            .set("bootstrap.servers", &self.servers)
            .set("group.id", group)
            .set("isolation.level", isolation.as_config())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            // A record that is gone is trouble, never something to read past.
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .create()
            .map_err(AuditError::Client)
    }
}
