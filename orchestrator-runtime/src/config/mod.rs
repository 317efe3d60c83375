//! Configuration: environment variables, read once at the edge into typed values, with every error at once.
//!
//! | file | what |
//! |---|---|
//! | `keys.rs` | the one table of keys |
//! | `types.rs`, `sections.rs` | the typed values |
//! | `parse.rs`, `reader.rs` | from text to value |
//! | `properties.rs`, `passthrough.rs` | librdkafka's own properties |
//! | `unknown.rs` | slips of the pen, strangers, service links |
//! | `check/` | rules across keys |
//! | `print.rs` | README table and `print-config` |
//!
//! Called before anything is started; opens no socket, changes nothing outside itself.

mod check;
mod error;
pub(crate) mod keys;
mod parse;
mod passthrough;
mod print;
pub(crate) mod properties;
mod reader;
mod sections;
mod types;
mod unknown;

pub use error::{ConfigError, ConfigErrors};
pub use passthrough::Passthrough;
pub use sections::{
    BatchConfig, FailureConfig, KafkaConfig, LedgerConfig, OpsConfig, TransformConfig,
};
pub use types::{
    AtomicOnPoison, Delivery, FailureMode, LogFormat, OnOffsetLost, RecordCoordinates, Secret,
    StartFrom, StorePayload, Strategy,
};

use keys::key;
use reader::{Effective, Reader};

/// Everything a pipeline is told from outside. Build it with [`from_env`](Config::from_env),
/// [`from_prefix`](Config::from_prefix) or [`from_map`](Config::from_map); `Debug` masks secrets.
///
/// ```
/// use orchestrator_runtime::config::Config;
///
/// let vars = [
///     ("ORCH_BOOTSTRAP_SERVERS", "localhost:9092"),
///     ("ORCH_SOURCE_TOPICS", "orders"),
///     ("ORCH_TARGET_TOPIC", "enriched"),
///     ("ORCH_GROUP_ID", "enricher"),
/// ];
/// let vars = vars.map(|(key, value)| (key.to_owned(), value.to_owned()));
/// let config = Config::from_map(vars)?;
/// assert_eq!(config.failure.max_attempts.get(), 3);
/// # Ok::<(), orchestrator_runtime::config::ConfigErrors>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// What every variable begins with, `ORCH_` unless chosen otherwise.
    pub prefix: String,
    /// Where records come from and go to.
    pub kafka: KafkaConfig,
    /// Workers in this process, 1 to 64.
    pub workers: usize,
    /// The delivery guarantee.
    pub delivery: Delivery,
    /// What failing records mean.
    pub failure: FailureConfig,
    /// Sizes of batches, limits of memory.
    pub batch: BatchConfig,
    /// How the transformer is called.
    pub transform: TransformConfig,
    /// The failure ledger.
    pub ledger: LedgerConfig,
    /// What an operator meets.
    pub ops: OpsConfig,
    /// What is allowed but probably not meant, a sentence each, to be logged at start.
    pub warnings: Vec<String>,
    effective: Vec<Effective>,
}

impl Config {
    /// Reads the environment's `ORCH_` variables.
    ///
    /// # Errors
    /// Everything that is wrong, not just the first.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_prefix(keys::PREFIX)
    }

    /// Reads the environment's variables of another prefix, such as `ORDERS_`: several pipelines fit in one process.
    ///
    /// # Errors
    /// As [`from_env`](Config::from_env); an empty prefix.
    pub fn from_prefix(prefix: &str) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let mut vars = Vec::new();
        for (key, value) in std::env::vars_os() {
            let Some(key) = key.to_str().filter(|key| key.starts_with(prefix)) else {
                continue;
            };
            match value.into_string() {
                Ok(value) => vars.push((key.to_owned(), value)),
                Err(_) => errors.push(ConfigError::new(key, None, "is not UTF-8")),
            }
        }
        Self::build(prefix, vars, errors)
    }

    /// Reads `ORCH_` variables from a map instead of the environment: for tests and for programs with a source of
    /// their own.
    ///
    /// # Errors
    /// As [`from_env`](Config::from_env).
    pub fn from_map(
        vars: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::build(keys::PREFIX, vars, Vec::new())
    }

    fn build(
        prefix: &str,
        vars: impl IntoIterator<Item = (String, String)>,
        mut errors: Vec<ConfigError>,
    ) -> Result<Self, ConfigErrors> {
        if prefix.is_empty() {
            let problem = "an empty prefix would take every variable of the environment for ours";
            return Err(ConfigErrors::new(vec![ConfigError::new(
                "prefix",
                Some(prefix),
                problem,
            )]));
        }
        let (config, found) = Self::read(Reader::new(prefix, vars));
        errors.extend(found);
        let config = check::rules(config, &mut errors);
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors::new(errors))
        }
    }

    /// One read of every key. With errors beside it the result is only good for finding more of them.
    fn read(mut reader: Reader) -> (Self, Vec<ConfigError>) {
        let r = &mut reader;
        let mut config = Config {
            prefix: r.prefix.clone(),
            kafka: KafkaConfig::read(r),
            workers: r.defaulted(key!("WORKERS"), parse::number),
            delivery: r.defaulted(key!("DELIVERY"), parse::choice),
            failure: FailureConfig::read(r),
            batch: BatchConfig::read(r),
            transform: TransformConfig::read(r),
            ledger: LedgerConfig::read(r),
            ops: OpsConfig::read(r),
            warnings: Vec::new(),
            effective: Vec::new(),
        };
        unknown::report(r);
        config.warnings = reader.warnings;
        config.effective = reader.effective;
        (config, reader.errors)
    }
}

#[cfg(test)]
mod tests;
