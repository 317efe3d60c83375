//! What a test may choose about its broker, and what the surroundings offer.
//!
//! `KafkaOptions` is filled in by tests, benches and `cargo xtask up`; `Tools` is read from the
//! environment once, in `Kafka::start`. Neither may change what Kafka does by default in matters of
//! time-outs: a test that wants a short one says so.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

/// Which kinds of broker will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ways {
    /// A named one, else Docker, else a JVM.
    Any,
    /// Docker, else a JVM: fresh, and ours alone.
    Own,
    /// A JVM: can be killed, paused and restarted.
    Local,
}

/// How to start a broker.
///
/// ```
/// use orchestrator_testkit::kafka::KafkaOptions;
/// // A broker whose process can be killed, with shorter sessions than Kafka would allow.
/// let options = KafkaOptions::new().local().property("group.min.session.timeout.ms", "1000");
/// ```
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    pub(super) ways: Ways,
    pub(super) properties: Vec<(String, String)>,
    pub(super) log_levels: Vec<(String, String)>,
    pub(super) heap: String,
    pub(super) full_jit: bool,
    pub(super) start_deadline: Duration,
    pub(super) proxy_port: Option<u16>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl KafkaOptions {
    /// Whatever is at hand, with Kafka's own defaults except for what one node alone needs.
    pub fn new() -> Self {
        Self {
            ways: Ways::Any,
            properties: Vec::new(),
            log_levels: Vec::new(),
            heap: "1G".to_owned(),
            full_jit: false,
            start_deadline: Duration::from_secs(60),
            proxy_port: None,
        }
    }

    /// A fresh broker that nobody else uses, even where `ORCH_BOOTSTRAP_SERVERS` names one.
    #[must_use]
    pub fn own(mut self) -> Self {
        if self.ways == Ways::Any {
            self.ways = Ways::Own;
        }
        self
    }

    /// A fresh broker in a JVM of ours, which can be killed, paused and restarted.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.ways = Ways::Local;
        self
    }

    /// Sets one line of `server.properties`, over whatever is there. A named broker is not changed:
    /// use [`own`](Self::own) with it.
    #[must_use]
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((key.into(), value.into()));
        self
    }

    /// Sets the level of one of a local broker's loggers, by default `warn`: what it says is in `broker.log`.
    #[must_use]
    pub fn log_level(mut self, logger: impl Into<String>, level: impl Into<String>) -> Self {
        self.log_levels.push((logger.into(), level.into()));
        self
    }

    /// Lets a killed broker come back in some 3 s instead of 11.
    ///
    /// Kafka refuses a broker that registers again before its last session has ended, 9 s by
    /// default; this makes it 2 s. In exchange a broker that is paused for longer than that is fenced
    /// for a moment when it goes on, as it otherwise would be after 9 s.
    #[must_use]
    pub fn quick_restart(self) -> Self {
        self.property("broker.session.timeout.ms", "2000")
            .property("broker.heartbeat.interval.ms", "250")
    }

    /// The JVM's own choice of compiler and collector, for benches. The default starts faster and
    /// takes less of a small machine, but is slower at full load.
    #[must_use]
    pub fn full_jit(mut self) -> Self {
        self.full_jit = true;
        self
    }

    /// The heap as Java writes it; `1G` unless set.
    #[must_use]
    pub fn heap(mut self, heap: impl Into<String>) -> Self {
        self.heap = heap.into();
        self
    }

    /// How long to wait until the broker answers; 60 s unless set.
    #[must_use]
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.start_deadline = deadline;
        self
    }
}

/// What the surroundings offer: the one place that reads the environment.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) bootstrap_servers: Option<String>,
    pub(super) kafka_libs: Option<PathBuf>,
    pub(super) docker: PathBuf,
    pub(super) java: PathBuf,
    pub(super) maven: PathBuf,
}

impl Tools {
    pub(super) fn from_env() -> Self {
        let text = |key| env::var(key).ok().filter(|v: &String| !v.trim().is_empty());
        Self {
            bootstrap_servers: text("ORCH_BOOTSTRAP_SERVERS"),
            kafka_libs: text("ORCH_KAFKA_LIBS").map(PathBuf::from),
            docker: PathBuf::from("docker"),
            java: text("JAVA_HOME")
                .map(|home| PathBuf::from(home).join("bin/java"))
                .filter(|java| java.exists())
                .unwrap_or_else(|| PathBuf::from("java")),
            maven: PathBuf::from("mvn"),
        }
    }
}
