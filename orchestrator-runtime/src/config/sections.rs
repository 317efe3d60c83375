//! The parts of [`Config`](super::Config), each with the one function that reads it. Everybody reads the values;
//! only the reader makes them.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use orchestrator_core::Topic;
use orchestrator_core::dead_letter::DlqTopic;

use super::keys::{DEFAULT_DB_URL, key};
use super::parse;
use super::passthrough::{self, Passthrough};
use super::reader::Reader;
use super::types::{
    AtomicOnPoison, Choice, FailureMode, LogFormat, OnOffsetLost, RecordCoordinates, Secret,
    StartFrom, StorePayload, Strategy,
};

/// Where records come from and go to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// Topics to read; at least one, each once.
    pub source_topics: Vec<String>,
    /// Topic of outputs that name none themselves.
    pub target_topic: Option<String>,
    /// The consumer group.
    pub group_id: String,
    /// This process's name within its group, if one was given.
    pub instance_id: Option<String>,
    /// Where a group without offsets starts.
    pub start_from: StartFrom,
    /// What happens when the next offset is gone.
    pub on_offset_lost: OnOffsetLost,
    /// librdkafka properties for every client.
    pub common: Passthrough,
    /// librdkafka properties for consumers; they override [`common`](Self::common).
    pub consumer: Passthrough,
    /// librdkafka properties for producers; they override [`common`](Self::common).
    pub producer: Passthrough,
}

impl KafkaConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let families = passthrough::read(reader);
        KafkaConfig {
            bootstrap_servers: reader.required(key!("BOOTSTRAP_SERVERS"), parse::bootstrap_servers),
            source_topics: reader.required(key!("SOURCE_TOPICS"), parse::topics),
            target_topic: reader.optional(key!("TARGET_TOPIC"), parse::topic),
            group_id: reader.required(key!("GROUP_ID"), parse::name),
            instance_id: reader.optional(key!("INSTANCE_ID"), parse::name),
            start_from: reader.defaulted(key!("START_FROM"), parse::choice),
            on_offset_lost: reader.defaulted(key!("ON_OFFSET_LOST"), parse::choice),
            common: families.common,
            consumer: families.consumer,
            producer: families.producer,
        }
    }

    /// Whether the user chose the group protocol of KIP-848, in which the broker owns sessions and assignment.
    pub fn uses_consumer_protocol(&self) -> bool {
        let protocol = self
            .consumer
            .get("group.protocol")
            .or_else(|| self.common.get("group.protocol"));
        protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
    }
}

/// What failing records mean.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailureConfig {
    /// ATOMIC or SKIP_AND_LOG.
    pub mode: FailureMode,
    /// What happens to poison in ATOMIC.
    pub atomic_on_poison: AtomicOnPoison,
    /// Attempts of a record that fails transiently, the first included.
    pub max_attempts: NonZeroU32,
    /// First wait between attempts.
    pub retry_backoff: Duration,
    /// Longest wait between attempts.
    pub retry_backoff_max: Duration,
    /// The skip brake, 0 to 100.
    pub skip_max_percent: u8,
    /// Starts that come to nothing until the record that ends the process is taken for poison; 0 for never.
    pub crash_quarantine_after: u32,
    /// Records to dead-letter whatever becomes of them.
    pub dead_letter_records: Vec<RecordCoordinates>,
    /// The dead-letter queue's topic; see [`dlq_for`](Self::dlq_for).
    pub dlq_topic: Option<DlqTopic>,
    /// Whether outputs carry the dedup key as a header.
    pub output_dedup_header: bool,
}

impl FailureConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        FailureConfig {
            mode: reader.defaulted(key!("FAILURE_MODE"), parse::choice),
            atomic_on_poison: reader.defaulted(key!("ATOMIC_ON_POISON"), parse::choice),
            max_attempts: reader.defaulted(key!("MAX_ATTEMPTS"), parse::number),
            retry_backoff: reader.defaulted(key!("RETRY_BACKOFF_MS"), parse::millis),
            retry_backoff_max: reader.defaulted(key!("RETRY_BACKOFF_MAX_MS"), parse::millis),
            skip_max_percent: reader.defaulted(key!("SKIP_MAX_PERCENT"), parse::number),
            crash_quarantine_after: reader.defaulted(key!("CRASH_QUARANTINE_AFTER"), parse::number),
            dead_letter_records: reader
                .optional(key!("DEAD_LETTER_RECORDS"), parse::coordinates)
                .unwrap_or_default(),
            dlq_topic: reader.optional(key!("DLQ_TOPIC"), parse::dlq_topic),
            output_dedup_header: reader.defaulted(key!("OUTPUT_DEDUP_HEADER"), parse::switch),
        }
    }

    /// The dead-letter topic for records of a source topic, if there is one.
    pub fn dlq_for(&self, source_topic: &str) -> Option<Topic> {
        let dlq = self.dlq_topic.as_ref()?;
        Some(dlq.for_source(source_topic))
    }
}

/// How much is taken at once, and how much memory that may use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchConfig {
    /// Least time between two commits of one worker.
    pub commit_interval: Duration,
    /// Most records of one unit of work, which is one transaction.
    pub commit_max_records: usize,
    /// Most records of a batch, of which a unit of work may have several.
    pub max_records: usize,
    /// Most bytes of a batch.
    pub max_bytes: usize,
    /// Most bytes of outputs of one unit of work.
    pub max_output_bytes: usize,
    /// Most outputs of one record.
    pub max_outputs_per_record: usize,
    /// Most bytes kept for held partitions.
    pub held_max_bytes: usize,
    /// Most bytes fetched ahead, per worker.
    pub prefetch_max_bytes: usize,
    /// Most bytes waiting in the producer, per worker.
    pub producer_queue_max_bytes: usize,
    /// Most records a second taken by this process; `None` is no limit.
    pub rate_limit_per_second: Option<NonZeroU32>,
}

impl BatchConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        BatchConfig {
            commit_interval: reader.defaulted(key!("COMMIT_INTERVAL_MS"), parse::millis),
            commit_max_records: reader.defaulted(key!("COMMIT_MAX_RECORDS"), parse::number),
            max_records: reader.defaulted(key!("BATCH_MAX_RECORDS"), parse::number),
            max_bytes: reader.defaulted(key!("BATCH_MAX_BYTES"), parse::number),
            max_output_bytes: reader.defaulted(key!("OUTPUT_MAX_BYTES"), parse::number),
            max_outputs_per_record: reader.defaulted(key!("MAX_OUTPUTS_PER_RECORD"), parse::number),
            held_max_bytes: reader.defaulted(key!("HELD_MAX_BYTES"), parse::number),
            prefetch_max_bytes: reader.defaulted(key!("PREFETCH_MAX_BYTES"), parse::number),
            producer_queue_max_bytes: reader
                .defaulted(key!("PRODUCER_QUEUE_MAX_BYTES"), parse::number),
            rate_limit_per_second: reader.optional(key!("RATE_LIMIT_PER_SECOND"), parse::number),
        }
    }
}

/// How the transformer is called.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransformConfig {
    /// Records transformed at once, per worker.
    pub concurrency: usize,
    /// Deadline of one attempt.
    pub timeout: Duration,
}

impl TransformConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        TransformConfig {
            concurrency: reader.defaulted(key!("TRANSFORM_CONCURRENCY"), parse::number),
            timeout: reader.defaulted(key!("TRANSFORM_TIMEOUT_MS"), parse::millis),
        }
    }
}

/// The failure ledger and its database.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LedgerConfig {
    /// What is written, and when.
    pub strategy: Strategy,
    /// The database; always there with a strategy other than [`Strategy::None`].
    pub url: Option<Secret>,
    /// The table; needs no quoting in SQL.
    pub table: String,
    /// Deadline of one statement.
    pub timeout: Duration,
    /// Deadline of all statements of one batch.
    pub batch_budget: Duration,
    /// Failed statements in a row that open the circuit.
    pub circuit_failure_threshold: u32,
    /// Time the circuit stays open before a probe.
    pub circuit_open: Duration,
    /// Whether Kafka keeps moving while the database is down.
    pub degrade_dont_block: bool,
    /// Rows that wait for a database that is down.
    pub queue_max_rows: usize,
    /// Connections to the database.
    pub max_connections: usize,
    /// The folder of the spill journal.
    pub spill_dir: Option<PathBuf>,
    /// What the spill journal may take on disk.
    pub spill_max_bytes: u64,
    /// How long a row may be RECEIVED before it is settled, if ever.
    pub safeguard_stale: Option<Duration>,
    /// How long SUCCESS rows stay, if not for ever.
    pub retention: Option<Duration>,
    /// Which rows keep the record's value.
    pub store_payload: StorePayload,
}

impl LedgerConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let url = reader.optional(key!("DB_URL"), parse::secret);
        let implied = if url.is_some() {
            Strategy::Lightweight
        } else {
            Strategy::None
        };
        let strategy = reader
            .optional(key!("DB_STRATEGY"), parse::choice)
            .unwrap_or(implied);
        let url = url.or_else(|| (strategy != Strategy::None).then(|| Secret::new(DEFAULT_DB_URL)));
        reader.derived(key!("DB_STRATEGY"), Some(strategy.word()));
        reader.derived(key!("DB_URL"), url.is_some().then_some(DEFAULT_DB_URL));
        LedgerConfig {
            strategy,
            url,
            table: reader.defaulted(key!("ERROR_TABLE"), parse::table),
            timeout: reader.defaulted(key!("DB_TIMEOUT_MS"), parse::millis),
            batch_budget: reader.defaulted(key!("DB_BATCH_BUDGET_MS"), parse::millis),
            circuit_failure_threshold: reader
                .defaulted(key!("DB_CIRCUIT_FAILURE_THRESHOLD"), parse::number),
            circuit_open: reader.defaulted(key!("DB_CIRCUIT_OPEN_MS"), parse::millis),
            degrade_dont_block: reader.defaulted(key!("DB_DEGRADE_DONT_BLOCK"), parse::switch),
            queue_max_rows: reader.defaulted(key!("DB_QUEUE_MAX_ROWS"), parse::number),
            max_connections: reader.defaulted(key!("DB_MAX_CONNECTIONS"), parse::number),
            spill_dir: reader.optional(key!("SPILL_DIR"), parse::folder),
            spill_max_bytes: 1_000_000
                * reader.defaulted(key!("SPILL_MAX_MB"), parse::number::<u64>),
            safeguard_stale: Some(reader.defaulted(key!("SAFEGUARD_STALE_MS"), parse::millis))
                .filter(|stale| !stale.is_zero()),
            retention: Some(reader.defaulted(key!("LEDGER_RETENTION_HOURS"), parse::number::<u64>))
                .filter(|hours| *hours > 0)
                .map(|hours| Duration::from_secs(hours * 3600)),
            store_payload: reader.defaulted(key!("STORE_PAYLOAD"), parse::choice),
        }
    }

    /// Whether a failure that cannot be recorded holds its partition.
    pub fn is_strict(&self) -> bool {
        self.strategy != Strategy::None && !self.degrade_dont_block
    }
}

/// What an operator meets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpsConfig {
    /// Where health and metrics answer; `None` is nowhere, port 0 a free one.
    pub http_addr: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Time to finish at a stop.
    pub drain_timeout: Duration,
    /// Time without progress after which the process counts as stuck.
    pub stall_timeout: Duration,
}

impl OpsConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        OpsConfig {
            http_addr: reader.defaulted(key!("HTTP_ADDR"), parse::listen),
            log_format: reader.defaulted(key!("LOG_FORMAT"), parse::choice),
            drain_timeout: reader.defaulted(key!("DRAIN_TIMEOUT_MS"), parse::millis),
            stall_timeout: reader.defaulted(key!("STALL_TIMEOUT_MS"), parse::millis),
        }
    }
}
