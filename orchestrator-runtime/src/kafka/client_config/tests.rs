//! What the clients are told.
#![allow(clippy::unwrap_used)]

use super::*;

fn config(vars: &[(&str, &str)]) -> Config {
    let minimal = [
        ("BOOTSTRAP_SERVERS", "localhost:9092"),
        ("SOURCE_TOPICS", "orders"),
        ("GROUP_ID", "g"),
        ("INSTANCE_ID", "i"),
    ];
    let all = minimal.iter().chain(vars);
    Config::from_map(all.map(|(key, value)| (format!("ORCH_{key}"), value.to_string()))).unwrap()
}

#[track_caller]
fn check(client: &ClientConfig, expected: &[(&str, Option<&str>)]) {
    for (property, value) in expected {
        assert_eq!(client.get(property), *value, "{property}");
    }
}

#[test]
fn librdkafka_knows_every_property_we_set() {
    let config = config(&[]);
    for client in [
        consumer_named(&config, "c"),
        producer(&config, "t"),
        admin(&config),
    ] {
        client.create_native_config().unwrap();
    }
}

#[test]
fn the_consumer_never_moves_offsets_itself() {
    let config = config(&[("PREFETCH_MAX_BYTES", "1048576")]);
    let identity = Identity::resolve(&config);
    check(
        &consumer(&config, &identity, 0),
        &[
            ("client.id", Some("g-i-0")),
            ("group.id", Some("g")),
            ("group.instance.id", Some("i-0")),
            ("isolation.level", Some("read_committed")),
            ("enable.auto.commit", Some("false")),
            ("enable.auto.offset.store", Some("false")),
            ("auto.offset.reset", Some("error")),
            ("enable.partition.eof", Some("true")),
            ("partition.assignment.strategy", Some("cooperative-sticky")),
            ("session.timeout.ms", Some("10000")),
            ("queued.max.messages.kbytes", Some("1024")),
            ("transactional.id", None),
        ],
    );
}

#[test]
fn a_name_that_no_restart_has_is_no_place_in_the_group() {
    let config = Config::from_map([
        (
            "ORCH_BOOTSTRAP_SERVERS".to_owned(),
            "localhost:9092".to_owned(),
        ),
        ("ORCH_SOURCE_TOPICS".to_owned(), "orders".to_owned()),
        ("ORCH_GROUP_ID".to_owned(), "g".to_owned()),
    ]);
    let config = config.unwrap();
    let random = Identity::resolve(&config).renewed().unwrap();
    check(
        &consumer(&config, &random, 0),
        &[("group.instance.id", None)],
    );
}

#[test]
fn the_consumer_protocol_gets_no_classic_property() {
    let config = config(&[("KAFKA_CONSUMER_GROUP_PROTOCOL", "consumer")]);
    let client = consumer_named(&config, "c");
    check(
        &client,
        &CLASSIC_ONLY
            .iter()
            .map(|property| (*property, None))
            .collect::<Vec<_>>(),
    );
    check(&client, &[("group.protocol", Some("consumer"))]);
}

#[test]
fn the_producer_is_transactional_and_its_waits_are_bounded() {
    check(
        &producer(&config(&[]), "g-i-0"),
        &[
            ("transactional.id", Some("g-i-0")),
            ("enable.idempotence", Some("true")),
            ("acks", Some("all")),
            ("transaction.timeout.ms", Some("15000")),
            ("message.timeout.ms", Some("10000")),
            ("topic.metadata.propagation.max.ms", Some("10000")),
            ("socket.timeout.ms", Some("10000")),
            ("partitioner", Some("murmur2_random")),
            ("queue.buffering.max.kbytes", Some("32768")),
            ("group.id", None),
        ],
    );
    let short = config(&[("KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "6000")]);
    check(
        &producer(&short, "t"),
        &[
            ("message.timeout.ms", Some("4000")),
            ("socket.timeout.ms", Some("4000")),
        ],
    );
    assert_eq!(
        Timings::of(&short).unit_deadline,
        Duration::from_millis(4_800)
    );
}

#[test]
fn the_users_properties_override_our_defaults_and_the_narrower_family_the_wider() {
    let config = config(&[
        ("KAFKA_CLIENT_ID", "mine"),
        ("KAFKA_COMPRESSION_TYPE", "gzip"),
        ("KAFKA_PRODUCER_COMPRESSION_CODEC", "zstd"),
        ("KAFKA_CONSUMER_SESSION_TIMEOUT_MS", "6000"),
    ]);
    check(
        &producer(&config, "t"),
        &[
            ("compression.type", Some("zstd")),
            ("client.id", Some("mine")),
        ],
    );
    check(
        &consumer_named(&config, "c"),
        &[("session.timeout.ms", Some("6000"))],
    );
}
