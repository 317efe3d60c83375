//! The configuration as a whole, through its public doors.
#![allow(clippy::unwrap_used)]

mod any;
mod rules;
mod secrets;

use std::time::Duration;

use super::keys::IfUnset;
use super::*;

const MINIMAL: [(&str, &str); 4] = [
    ("BOOTSTRAP_SERVERS", "localhost:9092"),
    ("SOURCE_TOPICS", "orders,returns"),
    ("TARGET_TOPIC", "enriched"),
    ("GROUP_ID", "enricher"),
];

/// The minimal configuration with these set over it.
fn with(vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let all = MINIMAL.iter().chain(vars);
    Config::from_map(all.map(|(key, value)| (format!("ORCH_{key}"), value.to_string())))
}

fn good(vars: &[(&str, &str)]) -> Config {
    with(vars).unwrap_or_else(|errors| panic!("{vars:?} refused:\n{errors}"))
}

/// One error, of that key, that says this.
#[track_caller]
fn refused(vars: &[(&str, &str)], key: &str, says: &str) {
    let errors = with(vars).expect_err(&format!("{vars:?} was accepted"));
    let shown = errors.to_string();
    let one: Vec<_> = errors.iter().collect();
    assert_eq!(one.len(), 1, "{shown}");
    assert_eq!(one[0].key, format!("ORCH_{key}"), "{shown}");
    assert!(one[0].problem.contains(says), "{shown}");
}

#[track_caller]
fn warned(vars: &[(&str, &str)], says: &[&str]) {
    let warnings = good(vars).warnings;
    assert_eq!(warnings.len(), says.len(), "{warnings:?}");
    for (warning, says) in warnings.iter().zip(says) {
        assert!(warning.contains(says), "{warning}");
    }
}

#[test]
fn the_reader_and_the_table_have_the_same_keys() {
    let config = good(&[]);
    let mut read: Vec<&str> = config
        .effective
        .iter()
        .map(|effective| effective.key.as_str())
        .collect();
    let mut table: Vec<String> = keys::all()
        .map(|key| format!("ORCH_{}", key.name))
        .collect();
    read.sort_unstable();
    table.sort_unstable();
    assert_eq!(read, table, "each key of the table is read exactly once");
}

#[test]
fn defaults_are_within_what_the_table_allows() {
    for key in keys::all() {
        if let IfUnset::Is(text) = key.default {
            assert!(key.kind.accepts(text), "{}={text}", key.name);
        }
    }
}

#[test]
fn the_readme_table_has_every_key() {
    let table = Config::markdown_table();
    for key in keys::all() {
        let rows = table
            .lines()
            .filter(|line| line.starts_with(&format!("| `ORCH_{}` |", key.name)));
        assert_eq!(rows.count(), 1, "{}", key.name);
    }
    assert!(
        table.contains("| `ORCH_WORKERS` | 1 to 64 | `1` |"),
        "{table}"
    );
}

#[test]
fn minimal_means_the_documented_defaults() {
    let config = good(&[]);
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.kafka.source_topics, ["orders", "returns"]);
    assert_eq!(config.kafka.start_from, StartFrom::Earliest);
    assert_eq!(config.kafka.on_offset_lost, OnOffsetLost::Hold);
    assert_eq!(config.workers, 1);
    assert_eq!(config.delivery, Delivery::ExactlyOnce);
    assert_eq!(config.failure.mode, FailureMode::Atomic);
    assert_eq!(config.failure.atomic_on_poison, AtomicOnPoison::Block);
    assert_eq!(config.failure.retry_backoff, Duration::from_millis(500));
    assert_eq!(config.failure.dlq_for("orders"), None);
    assert_eq!(config.batch.commit_interval, Duration::from_millis(5));
    assert_eq!(config.batch.rate_limit_per_second, None);
    assert_eq!(config.ledger.strategy, Strategy::None);
    assert_eq!(config.ledger.url, None);
    assert_eq!(config.ops.http_addr.unwrap().to_string(), "127.0.0.1:9464");
    assert_eq!(config.ops.log_format, LogFormat::Json);
}

#[test]
fn values_are_typed() {
    let config = good(&[
        ("FAILURE_MODE", "skip_and_log"),
        ("DLQ_TOPIC", "{topic}.dlq"),
        ("DEAD_LETTER_RECORDS", "orders:0:7"),
        ("RATE_LIMIT_PER_SECOND", " 100 "),
        ("HTTP_ADDR", "off"),
        ("INSTANCE_ID", ""),
    ]);
    assert_eq!(config.failure.mode, FailureMode::SkipAndLog);
    assert_eq!(
        config.failure.dlq_for("orders").as_deref(),
        Some("orders.dlq")
    );
    assert_eq!(config.failure.dead_letter_records[0].offset, 7);
    assert_eq!(config.batch.rate_limit_per_second.unwrap().get(), 100);
    assert_eq!(config.ops.http_addr, None);
    assert_eq!(config.kafka.instance_id, None, "set to nothing is not set");
}

#[test]
fn every_error_at_once_and_each_with_its_key() {
    let vars = [
        ("ORCH_WORKERS", "0"),
        ("ORCH_LOG_FORMAT", "XML"),
        ("ORCH_WORKER", "2"),
        ("ORCH_COLOR", "red"),
    ];
    let errors =
        Config::from_map(vars.map(|(key, value)| (key.to_owned(), value.to_owned()))).unwrap_err();
    let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    let expected = [
        "ORCH_BOOTSTRAP_SERVERS",
        "ORCH_SOURCE_TOPICS",
        "ORCH_GROUP_ID",
        "ORCH_WORKERS",
        "ORCH_LOG_FORMAT",
        "ORCH_WORKER",
    ];
    assert_eq!(keys, expected);
    let shown = errors.to_string();
    assert_eq!(shown.lines().count(), 6);
    assert!(
        shown.contains(r#"ORCH_WORKERS="0": allowed is 1 to 64"#),
        "{shown}"
    );
    assert!(
        shown.contains(r#"ORCH_LOG_FORMAT="XML": allowed is JSON | PRETTY"#),
        "{shown}"
    );
    assert!(
        shown.contains("ORCH_WORKER: no such key; ORCH_WORKERS is meant?"),
        "{shown}"
    );
}

#[test]
fn a_rule_is_silent_about_a_key_that_is_already_refused() {
    refused(
        &[
            ("SOURCE_TOPICS", "a,,b"),
            ("DEAD_LETTER_RECORDS", "x:0:0"),
            ("DLQ_TOPIC", "d"),
        ],
        "SOURCE_TOPICS",
        "allowed is",
    );
}

#[test]
fn ranges_are_inclusive() {
    for key in keys::all() {
        let (keys::Kind::Count(min, max)
        | keys::Kind::Millis(min, max)
        | keys::Kind::Bytes(min, max)) = key.kind
        else {
            continue;
        };
        for inside in [min, max] {
            let vars = [(key.name, &*inside.to_string())];
            let errors = with(&vars)
                .err()
                .map(|errors| errors.to_string())
                .unwrap_or_default();
            assert!(!errors.contains("allowed is"), "{errors}");
        }
        let below = min.checked_sub(1).map(|below| below.to_string());
        for outside in [
            below,
            Some((max + 1).to_string()),
            Some("1.5".into()),
            Some("-1".into()),
        ]
        .into_iter()
        .flatten()
        {
            refused(
                &[(key.name, &outside)],
                key.name,
                &format!("allowed is {min} to {max}"),
            );
        }
    }
}

#[test]
fn another_prefix_replaces_ours_everywhere() {
    let vars = [
        ("MYAPP_GROUP_ID", "g"),
        ("MYAPP_ATOMIC_ON_POISON", "DLQ"),
        ("ORCH_WORKERS", "0"),
    ];
    let vars = vars.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let errors = Config::build("MYAPP_", vars, Vec::new()).unwrap_err();
    let shown = errors.to_string();
    assert!(
        shown.contains("MYAPP_DLQ_TOPIC") && !shown.contains("ORCH_"),
        "{shown}"
    );
    assert!(Config::build("", [], Vec::new()).is_err());
}

#[test]
fn kubernetes_service_links_are_not_ours() {
    warned(
        &[
            ("KAFKA_SERVICE_HOST", "10.0.0.1"),
            ("KAFKA_SERVICE_PORT", "9092"),
            ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ],
        &[],
    );
    warned(&[("COLOR", "red")], &["ORCH_COLOR is not a key"]);
}
