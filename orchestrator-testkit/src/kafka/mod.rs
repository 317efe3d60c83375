//! A real Kafka at hand, for tests, the demo and the load harness.
//!
//! ```no_run
//! use orchestrator_testkit::kafka::{Kafka, KafkaOptions};
//!
//! // One broker for all tests of a binary; each test takes its own topics and groups.
//! let bootstrap = Kafka::shared().bootstrap_servers();
//!
//! // Or a broker of one's own, to be ill-treated.
//! let kafka = Kafka::start(KafkaOptions::new().local())?;
//! kafka.kill()?;
//! kafka.restart()?;
//! # Ok::<(), orchestrator_testkit::kafka::KafkaError>(())
//! ```
//!
//! [`Kafka::start`] takes what it finds, in this order: the broker that `ORCH_BOOTSTRAP_SERVERS`
//! names; a running Docker engine; a JDK 17 or later with Maven (or with a folder of Kafka's jars in
//! `ORCH_KAFKA_LIBS`). A broker that it started ends with the value, and with the process, however
//! that ends.

mod detached;
mod docker;
mod error;
mod fetch;
mod local;
mod options;
mod properties;
mod ready;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;

pub use detached::Detached;
pub use error::KafkaError;
pub use fetch::KAFKA_VERSION;
pub use options::KafkaOptions;

use docker::DockerBroker;
use local::LocalBroker;
use options::{Tools, Ways};

use crate::server::End;

/// Where a broker came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaKind {
    /// Named by `ORCH_BOOTSTRAP_SERVERS`; not ours.
    Attached,
    /// A container of ours.
    Docker,
    /// A JVM of ours, the only kind that takes [`Kafka::kill`] and its like.
    Local,
}

impl fmt::Display for KafkaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attached => "attached",
            Self::Docker => "docker",
            Self::Local => "local",
        })
    }
}

/// A broker that answers. Dropping it ends it, unless it was there before us.
#[derive(Debug)]
pub struct Kafka {
    broker: Broker,
}

#[derive(Debug)]
enum Broker {
    Attached(String),
    Docker(DockerBroker),
    Local(LocalBroker),
}

impl Kafka {
    /// Gets a broker and waits until it answers; blocks for some 3 s, and longer the first time,
    /// when Kafka has to be fetched.
    ///
    /// # Errors
    /// [`KafkaError::NoneAtHand`] names every way and why it did not work; the others say what went
    /// wrong on the way that was taken. A way that is there but fails is not passed over.
    pub fn start(options: KafkaOptions) -> Result<Self, KafkaError> {
        Self::start_with(&options, &Tools::from_env())
    }

    fn start_with(options: &KafkaOptions, tools: &Tools) -> Result<Self, KafkaError> {
        let attach = match (&tools.bootstrap_servers, options.ways) {
            (Some(bootstrap), Ways::Any) => {
                let remedy = "start that broker, or unset ORCH_BOOTSTRAP_SERVERS";
                ready::wait_until_ready(bootstrap, options.start_deadline, remedy, || Ok(()))?;
                return Ok(Self {
                    broker: Broker::Attached(bootstrap.clone()),
                });
            }
            (Some(_), _) => "set, but a broker of our own is asked for",
            (None, _) => "not set",
        };
        let docker = match options.ways {
            Ways::Local => Err("not asked for".to_owned()),
            Ways::Any | Ways::Own => docker::at_hand(&tools.docker),
        };
        let docker = match docker {
            Ok(()) => {
                let broker = DockerBroker::start(options, tools)?;
                return Ok(Self {
                    broker: Broker::Docker(broker),
                });
            }
            Err(why) => why,
        };
        match local::at_hand(tools) {
            Ok(()) => {
                let broker = LocalBroker::start(options, tools)?;
                Ok(Self {
                    broker: Broker::Local(broker),
                })
            }
            Err(local) => Err(KafkaError::NoneAtHand {
                attach: attach.to_owned(),
                docker,
                local,
            }),
        }
    }

    /// A broker in a JVM of ours that tells those who come through a proxy the proxy's port; and where that proxy
    /// connects to.
    pub(crate) fn start_behind(
        options: KafkaOptions,
        proxy_port: u16,
    ) -> Result<(Self, SocketAddr), KafkaError> {
        let options = KafkaOptions {
            proxy_port: Some(proxy_port),
            ..options.local()
        };
        let kafka = Self::start(options)?;
        match kafka.local("go through a proxy to")?.proxied() {
            Some(address) => Ok((kafka, address)),
            None => Err(KafkaError::NotOurs {
                action: "go through a proxy to",
                kind: kafka.kind(),
            }),
        }
    }

    /// The broker that all tests of this binary share; started by the first that asks.
    ///
    /// # Panics
    /// If no broker can be had; the text says what to do.
    #[track_caller]
    pub fn shared() -> &'static Self {
        // Statics are never dropped: the supervisor ends the broker when the process ends.
        static SHARED: OnceLock<Result<Kafka, KafkaError>> = OnceLock::new();
        match SHARED.get_or_init(|| Self::start(KafkaOptions::new())) {
            Ok(kafka) => kafka,
            Err(error) => panic!("{error}"),
        }
    }

    /// What clients connect to.
    pub fn bootstrap_servers(&self) -> &str {
        match &self.broker {
            Broker::Attached(bootstrap) => bootstrap,
            Broker::Docker(broker) => broker.bootstrap(),
            Broker::Local(broker) => broker.bootstrap(),
        }
    }

    /// Where it came from.
    pub fn kind(&self) -> KafkaKind {
        match &self.broker {
            Broker::Attached(_) => KafkaKind::Attached,
            Broker::Docker(_) => KafkaKind::Docker,
            Broker::Local(_) => KafkaKind::Local,
        }
    }

    /// The folder of a local broker: `broker.log`, `server.properties`, `data`. It goes with it.
    pub fn folder(&self) -> Option<&Path> {
        match &self.broker {
            Broker::Local(broker) => Some(broker.folder()),
            _ => None,
        }
    }

    /// The process of a local broker, to see what it costs.
    pub fn pid(&self) -> Option<u32> {
        match &self.broker {
            Broker::Local(broker) => broker.pid(),
            _ => None,
        }
    }

    /// Whether the process of a local broker is there (a paused one is).
    pub fn is_running(&self) -> Result<bool, KafkaError> {
        Ok(self.local("look at")?.is_running())
    }

    /// Ends the broker with SIGKILL, as a crash would. Clients see their connections reset.
    pub fn kill(&self) -> Result<(), KafkaError> {
        self.local("kill")?.end(End::Kill)
    }

    /// Ends the broker with SIGTERM, as an upgrade would, and waits until it has ended.
    pub fn terminate(&self) -> Result<(), KafkaError> {
        self.local("terminate")?.end(End::Term)
    }

    /// Stops the broker with SIGSTOP: connections stay open, nothing answers.
    pub fn pause(&self) -> Result<(), KafkaError> {
        self.local("pause")?.pause()
    }

    /// Lets a paused broker go on.
    pub fn resume(&self) -> Result<(), KafkaError> {
        self.local("resume")?.resume()
    }

    /// Starts a broker again on the same ports and data, killing it first if it still runs, and
    /// waits until it answers.
    pub fn restart(&self) -> Result<(), KafkaError> {
        let broker = self.local("restart")?;
        if broker.is_running() {
            broker.end(End::Kill)?;
        }
        broker.run()
    }

    /// Leaves the broker running when this process ends, for `cargo xtask up`.
    ///
    /// # Errors
    /// [`KafkaError::NotOurs`] for an attached one.
    pub fn detach(self) -> Result<Detached, KafkaError> {
        let bootstrap_servers = self.bootstrap_servers().to_owned();
        match self.broker {
            Broker::Attached(_) => Err(KafkaError::NotOurs {
                action: "detach",
                kind: KafkaKind::Attached,
            }),
            Broker::Docker(broker) => Ok(Detached::Container {
                name: broker.detach()?,
                bootstrap_servers,
            }),
            Broker::Local(broker) => {
                let (supervisor, folder) = broker.detach()?;
                Ok(Detached::Process {
                    supervisor,
                    folder,
                    bootstrap_servers,
                })
            }
        }
    }

    fn local(&self, action: &'static str) -> Result<&LocalBroker, KafkaError> {
        match &self.broker {
            Broker::Local(broker) => Ok(broker),
            _ => Err(KafkaError::NotOurs {
                action,
                kind: self.kind(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
