//! Why an audit cannot be made. What it finds is no error. No variant may hold what a setting or a record contains.

use std::time::Duration;

use rdkafka::error::KafkaError;

/// Why an audit cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The client does not take its settings.
    #[error("cannot make a Kafka client: {0}; see -X and --bootstrap-servers")]
    Client(KafkaError),
    /// A topic does not exist.
    #[error("there is no topic {0}, or it may not be read")]
    NoTopic(String),
    /// The cluster did not do what was asked.
    #[error("cannot {what} within {patience:?}: {reason}")]
    Kafka {
        /// What was asked.
        what: String,
        /// How long it was asked for.
        patience: Duration,
        /// The last answer.
        reason: String,
    },
    /// The audited span is not there any more.
    #[error(
        "{topic}-{partition} begins at offset {begins}: what was deleted before cannot be audited; \
         say from which source offsets on everything is there, or begin at the committed ones"
    )]
    Truncated {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Its first offset.
        begins: i64,
    },
    /// Two records of the source cannot be told apart.
    #[error(
        "{first} and {second} have the same identity: choose what is unique to each source record \
         and found in its outputs, or dedup-key if the outputs carry it (ORCH_OUTPUT_DEDUP_HEADER)"
    )]
    NotUnique {
        /// The first, as `topic:partition:offset`.
        first: String,
        /// The second.
        second: String,
    },
    /// The database did not do what was asked.
    #[error("cannot read the ledger: {0}")]
    Ledger(String),
    /// The ledger's URL is of a database that is not known.
    #[error(
        "the ledger's URL begins with {0}:, which is no database known here: \
         give sqlite:, postgres:, mysql: or mariadb:"
    )]
    LedgerScheme(String),
    /// The program's metrics cannot be read.
    #[error("cannot read the metrics of {url}: {reason}")]
    Metrics {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The address for the audit's own metrics is not to be had, or signals cannot be waited for.
    #[error("cannot serve /metrics at {address:?}: {reason}; give another --http-addr")]
    Endpoint {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// Asked to end.
    #[error("stopped before the end")]
    Stopped,
}

impl AuditError {
    /// Whether trying again cannot help: what was asked for has to be changed.
    pub fn is_usage(&self) -> bool {
        !matches!(
            self,
            Self::Kafka { .. } | Self::Ledger(_) | Self::Metrics { .. } | Self::Stopped
        )
    }
}
