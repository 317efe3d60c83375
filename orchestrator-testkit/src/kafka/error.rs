//! What can go wrong between a test and its broker, and what to do about it.
//!
//! Made by every file of this folder, read by people. It must never hold a secret: bootstrap
//! servers and file names only.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::KafkaKind;

/// Why there is no broker, or why it would not do as told. Each text names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// Neither a named broker nor Docker nor a JVM is at hand.
    #[error(
        "no Kafka at hand. Any one of these will do:\n  \
         1. set ORCH_BOOTSTRAP_SERVERS to a broker that runs ({attach});\n  \
         2. start a Docker engine ({docker});\n  \
         3. install JDK 17 or later, and Maven or a folder of Kafka's jars in ORCH_KAFKA_LIBS ({local})"
    )]
    NoneAtHand {
        /// Why the first way did not work.
        attach: String,
        /// Why the second way did not work.
        docker: String,
        /// Why the third way did not work.
        local: String,
    },
    /// A broker was named, or started, and does not answer.
    #[error("no Kafka answers at {bootstrap} within {deadline:?}: {remedy}")]
    Unreachable {
        /// The address that was tried.
        bootstrap: String,
        /// How long it was tried.
        deadline: Duration,
        /// What to look at.
        remedy: String,
    },
    /// Kafka's jars could not be fetched.
    #[error(
        "cannot fetch {artifact} with Maven (set ORCH_KAFKA_LIBS to a folder of its jars to do without): {reason}"
    )]
    Fetch {
        /// Maven coordinates.
        artifact: String,
        /// The end of Maven's own output.
        reason: String,
    },
    /// The broker's process ended by itself.
    #[error("the broker ended by itself; the end of {log}:\n{tail}", log = .log.display())]
    Died {
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A fault was asked of a broker whose process is not ours.
    #[error(
        "cannot {action} a broker of kind {kind}: only one started by KafkaOptions::new().local() can be"
    )]
    NotOurs {
        /// What was asked.
        action: &'static str,
        /// The kind at hand.
        kind: KafkaKind,
    },
    /// The operating system said no.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl KafkaError {
    /// Names what was being done when the system said no.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
