//! The one table of keys: the parser, the README table and `print-config` all come from it, so they cannot drift.
//! Rows are named by [`key!`], which does not compile for a name that is not here. Nothing here reads anything.

use super::types::{
    AtomicOnPoison, Choice, Delivery, FailureMode, LogFormat, OnOffsetLost, StartFrom,
    StorePayload, Strategy,
};

/// The prefix of every variable, unless [`Config::from_prefix`](super::Config::from_prefix) says otherwise.
pub(crate) const PREFIX: &str = "ORCH_";

/// The ledger's place when a strategy is set and no URL is.
pub(crate) const DEFAULT_DB_URL: &str = "sqlite://orchestrator-ledger.db";

/// One row: a variable without its prefix.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: IfUnset,
    pub(crate) secret: bool,
    pub(crate) about: &'static str,
}

/// What a key's text may be.
#[derive(Debug)]
pub(crate) enum Kind {
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// A whole number from .. to.
    Count(u64, u64),
    /// Milliseconds from .. to.
    Millis(u64, u64),
    /// Bytes from .. to.
    Bytes(u64, u64),
    /// Something its parser knows, in words.
    Text(&'static str),
}

/// What holds when a key is not set.
#[derive(Debug)]
pub(crate) enum IfUnset {
    Required,
    Unset,
    Is(&'static str),
    /// Follows from other keys, in words.
    Derived(&'static str),
}

impl Kind {
    /// What is allowed, for an error and for the README.
    pub(crate) fn allowed(&self) -> String {
        match self {
            Kind::Choice(words) => words.join(" | "),
            Kind::Count(min, max) => format!("{min} to {max}"),
            Kind::Millis(min, max) => format!("{min} to {max} (milliseconds)"),
            Kind::Bytes(min, max) => format!("{min} to {max} (bytes)"),
            Kind::Text(words) => (*words).to_owned(),
        }
    }

    /// Whether the text is within what the table allows. [`Kind::Text`] is left to its parser.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        match self {
            Kind::Choice(words) => words.iter().any(|word| word.eq_ignore_ascii_case(text)),
            Kind::Count(min, max) | Kind::Millis(min, max) | Kind::Bytes(min, max) => text
                .parse::<u64>()
                .is_ok_and(|number| (*min..=*max).contains(&number)),
            Kind::Text(_) => true,
        }
    }
}

impl Key {
    const fn new(name: &'static str, kind: Kind, default: IfUnset, about: &'static str) -> Self {
        Key {
            name,
            kind,
            default,
            secret: false,
            about,
        }
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

/// The row of that name; a name that is not in the table stops the build when used through [`key!`].
pub(crate) const fn find(name: &str) -> &'static Key {
    let mut section = 0;
    while section < SECTIONS.len() {
        let keys = SECTIONS[section].1;
        let mut row = 0;
        while row < keys.len() {
            if same(keys[row].name, name) {
                return &keys[row];
            }
            row += 1;
        }
        section += 1;
    }
    panic!("no such key in the table")
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A row of the table by its name, looked up while compiling.
macro_rules! key {
    ($name:literal) => {
        const { $crate::config::keys::find($name) }
    };
}
pub(crate) use key;

/// Every row of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|(_, keys)| keys.iter())
}

use IfUnset::{Derived, Is, Required, Unset};
use Kind::{Bytes, Count, Millis, Text};

const HOUR_MS: u64 = 3_600_000;
const KIB: u64 = 1024;
const GIB: u64 = 1024 * 1024 * 1024;
const SWITCH: Kind = Kind::Choice(&["true", "false"]);
const NAME: Kind = Text("1 to 200 of A-Z a-z 0-9 . _ -");

const fn choice<T: Choice>() -> Kind {
    Kind::Choice(T::WORDS)
}

/// The table, in the README's order.
#[rustfmt::skip]
pub(crate) static SECTIONS: &[(&str, &[Key])] = &[
    ("Kafka", &[
        Key::new("BOOTSTRAP_SERVERS", Text("host:port, comma-separated"), Required, "Brokers to ask first."),
        Key::new("SOURCE_TOPICS", Text("topic names, comma-separated, each once"), Required, "Topics to read."),
        Key::new("TARGET_TOPIC", Text("a topic name"), Unset, "Topic of outputs that name none themselves."),
        Key::new("GROUP_ID", NAME, Required, "Consumer group; every process of one pipeline has the same."),
        Key::new("INSTANCE_ID", NAME, Unset, "Name of this process within its group, the same after a restart, never twice at a time. Unset: host name and the first free slot."),
        Key::new("START_FROM", choice::<StartFrom>(), Is("EARLIEST"), "Where a partition starts that the group has no offset of, one that is added later too; resolved once and remembered."),
        Key::new("ON_OFFSET_LOST", choice::<OnOffsetLost>(), Is("HOLD"), "When the next offset is gone from the topic: hold the partition, or go on from the earliest record."),
        Key::new("WORKERS", Count(1, 64), Is("1"), "Workers in this process, each one consumer, two transactional producers in turn, one loop."),
        Key::new("DELIVERY", choice::<Delivery>(), Is("EXACTLY_ONCE"), "Reserved: AT_LEAST_ONCE is not available yet."),
    ]),
    ("Failures", &[
        Key::new("FAILURE_MODE", choice::<FailureMode>(), Is("ATOMIC"), "ATOMIC passes no record without its outputs; SKIP_AND_LOG records a failed one and passes it."),
        Key::new("ATOMIC_ON_POISON", choice::<AtomicOnPoison>(), Is("BLOCK"), "ATOMIC, a record that cannot be transformed: hold its partition, send it to the DLQ in the same transaction, or stop the process (exit 3)."),
        Key::new("MAX_ATTEMPTS", Count(1, 10_000), Is("3"), "Attempts of a record that fails transiently, the first included."),
        Key::new("RETRY_BACKOFF_MS", Millis(1, HOUR_MS), Is("500"), "First wait between attempts; doubles, with full jitter."),
        Key::new("RETRY_BACKOFF_MAX_MS", Millis(1, 24 * HOUR_MS), Is("30000"), "Longest wait between attempts."),
        Key::new("SKIP_MAX_PERCENT", Count(0, 100), Is("50"), "Skip brake: when more of at least 20 records fail transiently at once, hold and skip nothing."),
        Key::new("CRASH_QUARANTINE_AFTER", Count(0, 100), Is("3"), "Starts that end the process before anything is passed until the record that does so is taken for poison; 2 or more, 0 for never. Needs a name that stays the same (INSTANCE_ID)."),
        Key::new("DLQ_TOPIC", Text("a topic name, {topic} stands for the source topic"), Unset, "Dead-letter queue; usually {topic}.dlq."),
        Key::new("DEAD_LETTER_RECORDS", Text("topic:partition:offset, comma-separated"), Unset, "Way out of a held partition: dead-letter exactly these records."),
        Key::new("OUTPUT_DEDUP_HEADER", SWITCH, Is("false"), "Whether outputs carry the dedup key as a header."),
    ]),
    ("Batches and memory", &[
        Key::new("COMMIT_INTERVAL_MS", Millis(0, 60_000), Is("5"), "Least time between two commits of one worker."),
        Key::new("COMMIT_MAX_RECORDS", Count(1, 1_000_000), Is("20000"), "Most records of one unit of work, which is one transaction."),
        Key::new("BATCH_MAX_RECORDS", Count(1, 1_000_000), Is("2000"), "Most records of a batch, of which a unit of work may have several."),
        Key::new("BATCH_MAX_BYTES", Bytes(KIB, GIB), Is("2097152"), "Most bytes of a batch."),
        Key::new("OUTPUT_MAX_BYTES", Bytes(KIB, GIB), Is("33554432"), "Most bytes of outputs of one unit of work."),
        Key::new("MAX_OUTPUTS_PER_RECORD", Count(1, 1_000_000), Is("1000"), "Most outputs of one record; more is that record's permanent failure."),
        Key::new("HELD_MAX_BYTES", Bytes(KIB, 64 * GIB), Is("268435456"), "Most bytes kept for held partitions."),
        Key::new("PREFETCH_MAX_BYTES", Bytes(64 * KIB, GIB), Is("2097152"), "Most bytes fetched ahead, per worker."),
        Key::new("PRODUCER_QUEUE_MAX_BYTES", Bytes(1024 * KIB, 64 * GIB), Is("33554432"), "Most bytes waiting in the producer, per worker."),
        Key::new("RATE_LIMIT_PER_SECOND", Count(1, u32::MAX as u64), Unset, "Most records a second taken by this process. Unset: no limit."),
    ]),
    ("Transformer", &[
        Key::new("TRANSFORM_CONCURRENCY", Count(1, 65_536), Is("64"), "Records of an asynchronous or blocking transformer that are transformed at once, per worker; others have one thread a core."),
        Key::new("TRANSFORM_TIMEOUT_MS", Millis(1, 24 * HOUR_MS), Is("30000"), "Deadline of one attempt. An asynchronous transform that passes it has failed transiently; a synchronous one is told as hanging."),
    ]),
    ("Ledger", &[
        Key::new("DB_STRATEGY", choice::<Strategy>(), Derived("LIGHTWEIGHT if ORCH_DB_URL is set, else NONE"), "What is written to the failure ledger, and when."),
        Key::new("DB_URL", Text("sqlite://path, postgres://user:password@host/database, mysql://user:password@host/database"), Derived("sqlite://orchestrator-ledger.db with a strategy other than NONE"), "Database of the ledger.").secret(),
        Key::new("ERROR_TABLE", Text("a-z 0-9 _, not a digit first, at most 38, not sqlite_.."), Is("event_failures"), "Table of the ledger."),
        Key::new("DB_TIMEOUT_MS", Millis(1, 60_000), Is("150"), "Deadline of one statement."),
        Key::new("DB_BATCH_BUDGET_MS", Millis(1, 600_000), Is("1000"), "Deadline of all statements of one batch."),
        Key::new("DB_MAX_CONNECTIONS", Count(1, 1000), Is("20"), "Connections to the ledger's database at the most, per process; only RELIABLE has use for more than a few. SQLite has one."),
        Key::new("DB_CIRCUIT_FAILURE_THRESHOLD", Count(1, 1_000_000), Is("5"), "Failed statements in a row that open the circuit; of those that run at once only one counts."),
        Key::new("DB_CIRCUIT_OPEN_MS", Millis(1, HOUR_MS), Is("10000"), "Time the circuit stays open before a probe."),
        Key::new("DB_DEGRADE_DONT_BLOCK", SWITCH, Is("true"), "Database down: true keeps Kafka moving, false holds partitions so that nothing passes unrecorded."),
        Key::new("DB_QUEUE_MAX_ROWS", Count(1, 10_000_000), Is("10000"), "Rows that wait for a database that is down; more are dropped and counted."),
        Key::new("SPILL_DIR", Text("a folder on a local disk"), Unset, "Where rows that a database in trouble cannot take are kept, to be written back later; without it they wait in memory."),
        Key::new("SPILL_MAX_MB", Count(1, 10_000_000), Is("1024"), "What the spill journal may take on disk, in MB of 1,000,000 bytes; more rows are dropped and counted."),
        Key::new("SAFEGUARD_STALE_MS", Millis(0, 30 * 24 * HOUR_MS), Is("300000"), "Rows RECEIVED for longer, which nobody works on, are settled; 0 leaves them alone."),
        Key::new("LEDGER_RETENTION_HOURS", Count(0, 1_000_000), Is("168"), "SUCCESS rows are deleted after so long; 0 keeps them. FAILED rows stay."),
        Key::new("STORE_PAYLOAD", choice::<StorePayload>(), Is("FAILED"), "Which rows keep the record's value."),
    ]),
    ("Operation", &[
        Key::new("HTTP_ADDR", Text("ip:port | off"), Is("127.0.0.1:9464"), "Where /livez, /readyz, /health and /metrics answer; port 0 takes a free one."),
        Key::new("LOG_FORMAT", choice::<LogFormat>(), Is("JSON"), "JSON in ECS shape, or for people."),
        Key::new("DRAIN_TIMEOUT_MS", Millis(1, HOUR_MS), Is("20000"), "Time to finish at SIGTERM; keep it below the 30 s of Kubernetes."),
        Key::new("STALL_TIMEOUT_MS", Millis(1, 24 * HOUR_MS), Is("60000"), "/livez fails when flowing partitions make no progress for this long."),
    ]),
];

/// Families of variables, not rows: (name, about).
#[rustfmt::skip]
pub(crate) static PASSTHROUGH: &[(&str, &str)] = &[
    ("KAFKA_<KEY>", "A property of every client, `.` written as `_`: `ORCH_KAFKA_SECURITY_PROTOCOL=ssl`. Secret ones also as `_FILE`."),
    ("KAFKA_CONSUMER_<KEY>", "The same for consumers only: `ORCH_KAFKA_CONSUMER_GROUP_PROTOCOL=consumer` selects KIP-848."),
    ("KAFKA_PRODUCER_<KEY>", "The same for producers only: `ORCH_KAFKA_PRODUCER_COMPRESSION_TYPE=zstd`."),
];
