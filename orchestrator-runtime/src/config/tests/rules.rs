//! Rules across keys: what is refused, what is warned of.

use super::*;
use crate::kafka::client_config;

#[test]
fn topics_never_feed_on_themselves() {
    refused(&[("TARGET_TOPIC", "orders")], "TARGET_TOPIC", "read again");
    refused(&[("DLQ_TOPIC", "returns")], "DLQ_TOPIC", "read again");
    refused(
        &[("DLQ_TOPIC", "enriched")],
        "DLQ_TOPIC",
        "taken for outputs",
    );
    let chained = [("SOURCE_TOPICS", "a,a.dlq"), ("DLQ_TOPIC", "{topic}.dlq")];
    refused(&chained, "DLQ_TOPIC", r#"makes "a.dlq""#);
    let long = "x".repeat(248);
    refused(
        &[("SOURCE_TOPICS", &long), ("DLQ_TOPIC", "{topic}.dlq")],
        "DLQ_TOPIC",
        "249",
    );
    assert_eq!(
        with(&[("DLQ_TOPIC", "{topic}")])
            .unwrap_err()
            .iter()
            .count(),
        2,
        "one for each source"
    );
}

#[test]
fn poison_has_somewhere_to_go() {
    refused(
        &[("ATOMIC_ON_POISON", "DLQ")],
        "ATOMIC_ON_POISON",
        "needs ORCH_DLQ_TOPIC",
    );
    refused(
        &[("DEAD_LETTER_RECORDS", "orders:0:1")],
        "DEAD_LETTER_RECORDS",
        "needs ORCH_DLQ_TOPIC",
    );
    let stranger = [
        ("DLQ_TOPIC", "dlq"),
        ("DEAD_LETTER_RECORDS", "orders:0:1,other:0:1"),
    ];
    refused(&stranger, "DEAD_LETTER_RECORDS", "other:0:1 is of no topic");
    refused(
        &[("RETRY_BACKOFF_MS", "40000")],
        "RETRY_BACKOFF_MS",
        "ORCH_RETRY_BACKOFF_MAX_MS",
    );
    warned(&[("FAILURE_MODE", "SKIP_AND_LOG")], &["no trace"]);
    warned(
        &[("FAILURE_MODE", "SKIP_AND_LOG"), ("DLQ_TOPIC", "dlq")],
        &[],
    );
    let strict = [
        ("FAILURE_MODE", "SKIP_AND_LOG"),
        ("DB_STRATEGY", "LIGHTWEIGHT"),
        ("DB_DEGRADE_DONT_BLOCK", "false"),
    ];
    warned(&strict, &[]);
    let idle = [
        ("FAILURE_MODE", "SKIP_AND_LOG"),
        ("DLQ_TOPIC", "dlq"),
        ("ATOMIC_ON_POISON", "STOP"),
    ];
    warned(&idle, &["no effect"]);
}

#[test]
fn what_is_not_there_yet_says_so() {
    refused(&[("DELIVERY", "AT_LEAST_ONCE")], "DELIVERY", "reserved");
    refused(
        &[("DB_URL", "oracle://u:hunter2@h/db")],
        "DB_URL",
        "allowed is sqlite://path",
    );
    refused(&[("DB_URL", "ledger.db")], "DB_URL", "sqlite://");
}

#[test]
fn the_ledger_follows_from_url_and_strategy() {
    let config = good(&[("DB_URL", "sqlite://a.db")]);
    assert_eq!(config.ledger.strategy, Strategy::Lightweight);
    assert!(
        config
            .print()
            .contains("ORCH_DB_STRATEGY=LIGHTWEIGHT (default)")
    );
    let config = good(&[("DB_STRATEGY", "LIGHTWEIGHT")]);
    assert_eq!(config.ledger.url.unwrap().expose(), keys::DEFAULT_DB_URL);
    refused(
        &[("DB_BATCH_BUDGET_MS", "100")],
        "DB_BATCH_BUDGET_MS",
        "ORCH_DB_TIMEOUT_MS",
    );
    warned(
        &[("DB_STRATEGY", "NONE"), ("DB_URL", "sqlite://a.db")],
        &["no effect"],
    );
    warned(&[("DB_DEGRADE_DONT_BLOCK", "false")], &["no effect"]);
}

#[test]
fn sizes_and_times_that_are_odd_are_warned_of() {
    warned(&[("HELD_MAX_BYTES", "1024")], &["ORCH_HELD_MAX_BYTES"]);
    warned(
        &[("PREFETCH_MAX_BYTES", "65536")],
        &["ORCH_PREFETCH_MAX_BYTES"],
    );
    warned(&[("DRAIN_TIMEOUT_MS", "1000")], &["12000 ms"]);
    warned(&[("STALL_TIMEOUT_MS", "30000")], &["ORCH_STALL_TIMEOUT_MS"]);
}

#[test]
fn a_unit_fails_before_its_transaction_and_that_before_the_consumer() {
    for property in [
        "MESSAGE_TIMEOUT_MS",
        "TOPIC_METADATA_PROPAGATION_MAX_MS",
        "SOCKET_TIMEOUT_MS",
    ] {
        let key = format!("KAFKA_PRODUCER_{property}");
        refused(
            &[(&key, "15000")],
            &key,
            "below transaction.timeout.ms (15000)",
        );
        good(&[(&key, "14000")]);
    }
    refused(
        &[("KAFKA_PRODUCER_MESSAGE_TIMEOUT_MS", "0")],
        "KAFKA_PRODUCER_MESSAGE_TIMEOUT_MS",
        "above 0",
    );
    let long = ("KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "60000");
    refused(&[long], long.0, "below max.poll.interval.ms (60000)");
    good(&[long, ("KAFKA_CONSUMER_MAX_POLL_INTERVAL_MS", "90000")]);
    // A shorter transaction takes our defaults down with it.
    good(&[("KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "1000")]);
}

#[test]
fn the_consumer_protocol_takes_no_classic_property() {
    let protocol = ("KAFKA_CONSUMER_GROUP_PROTOCOL", "consumer");
    assert!(good(&[protocol]).kafka.uses_consumer_protocol());
    assert!(
        good(&[("KAFKA_GROUP_PROTOCOL", "consumer")])
            .kafka
            .uses_consumer_protocol()
    );
    assert!(!good(&[]).kafka.uses_consumer_protocol());
    for property in client_config::CLASSIC_ONLY {
        let key = format!(
            "KAFKA_CONSUMER_{}",
            property.to_uppercase().replace('.', "_")
        );
        let value = if property.ends_with("ms") {
            "9000"
        } else {
            "range"
        };
        refused(&[protocol, (&key, value)], &key, "KIP-848");
        if value != "range" || key.ends_with("STRATEGY") {
            good(&[(&key, value)]);
        }
    }
}

#[test]
fn librdkafka_has_the_last_word_before_any_socket() {
    refused(
        &[("KAFKA_CONSUMER_SESSION_TIMEOUT_MS", "70000")],
        "KAFKA_CONSUMER_*",
        "max.poll.interval.ms",
    );
    let key = "KAFKA_PRODUCER_MAX_IN_FLIGHT_REQUESTS_PER_CONNECTION";
    refused(&[(key, "6")], "KAFKA_PRODUCER_*", "max.in.flight");
    good(&[
        ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
        ("KAFKA_SASL_MECHANISMS", "PLAIN"),
    ]);
}
