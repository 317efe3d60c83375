//! Tests of dead letters: what they say, what is left out first, and that they always fit.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::error::{FailureClass, Stage};
use crate::failure::Failure;
use crate::record::RecordBuilder;

fn failed(record: RecordBuilder) -> FailureRecord {
    FailureRecord {
        record: record.build(),
        target_topic: None,
        failure: Failure {
            class: FailureClass::Permanent,
            stage: Stage::Decode,
            kind: "serde_json::Error".into(),
            message: "expected value at line 1".into(),
            chain: vec!["bad byte".into()],
            attempts: 2,
            first_failed_at_ms: 1000,
            last_failed_at_ms: 2000,
        },
        dead_lettered: true,
        fence: 0,
    }
}

fn letter(failed: &FailureRecord, max_bytes: usize) -> Output {
    let output = dead_letter(failed, &"orders.dlq".into(), "billing", max_bytes);
    let size = output.size_given(&failed.record);
    assert!(size <= max_bytes, "{size} bytes, {max_bytes} allowed");
    output
}

fn text<'a>(output: &'a Output, name: &str) -> Option<&'a str> {
    let mut found = output.headers().iter().filter(|(header, _)| header == name);
    let value = found.next()?.1.as_ref()?;
    assert!(found.next().is_none(), "{name} twice");
    Some(std::str::from_utf8(value).unwrap())
}

#[test]
fn it_carries_the_record_and_why_it_failed() {
    let failed = failed(
        Record::builder("orders", 3, 7)
            .key("k")
            .value("v")
            .timestamp_ms(5)
            .header("a", "1")
            .header("traceparent", "00-a-b-01")
            .header("a", "2"),
    );
    let output = letter(&failed, 1_000_000);
    assert_eq!(output.topic().unwrap().as_str(), "orders.dlq");
    assert_eq!(output.key_given(&failed.record), Some(&b"k"[..]));
    assert_eq!(output.value(), Some(&b"v"[..]));
    assert_eq!(output.timestamp_given(&failed.record), Some(5));
    assert_eq!(
        output.traceparent_given(&failed.record),
        None,
        "already among the headers"
    );
    let source: Vec<_> = output.headers()[..3]
        .iter()
        .map(|(name, value)| (&**name, value.as_deref().unwrap()))
        .collect();
    assert_eq!(
        source,
        [("a", &b"1"[..]), ("traceparent", b"00-a-b-01"), ("a", b"2")]
    );
    for (name, expected) in [
        (EXCEPTION, "serde_json::Error"),
        (MESSAGE, "expected value at line 1"),
        (
            STACKTRACE,
            "serde_json::Error (decode): expected value at line 1\ncaused by: bad byte",
        ),
        (TOPIC, "orders"),
        (PARTITION, "3"),
        (OFFSET, "7"),
        (CONSUMER_GROUP, "billing"),
        (ATTEMPTS, "2"),
        (FAILURE_CLASS, "permanent"),
        (STAGE, "decode"),
        (FIRST_FAILED_AT, "1000"),
        (LAST_FAILED_AT, "2000"),
        (DEDUP_KEY, "orders-3-7"),
    ] {
        assert_eq!(text(&output, name), Some(expected), "{name}");
    }
    for name in [VALUE_OMITTED, KEY_OMITTED, HEADERS_OMITTED] {
        assert_eq!(text(&output, name), None, "{name}");
    }
}

#[test]
fn a_tombstone_stays_one() {
    let output = letter(&failed(Record::builder("t", 0, 0).key("k")), 10_000);
    assert_eq!(output.value(), None);
    assert_eq!(text(&output, VALUE_OMITTED), None);
}

#[test]
fn an_earlier_trip_is_replaced_and_its_attempts_add_up() {
    let first = failed(
        Record::builder("orders", 3, 7)
            .value(vec![0; 5000])
            .header("mine", "1"),
    );
    let first = letter(&first, 2000);
    assert_eq!(text(&first, VALUE_OMITTED), Some("5000"));
    let mut again = Record::builder("orders.dlq", 0, 9).header(DEDUP_KEY_HEADER, "orders-3-7");
    for (name, value) in first.headers() {
        again = again.header(&**name, value.as_ref().unwrap().to_vec());
    }
    let second = letter(&failed(again), 1_000_000);
    for (name, expected) in [
        (ATTEMPTS, "4"),
        (TOPIC, "orders.dlq"),
        (OFFSET, "9"),
        (DEDUP_KEY, "orders-3-7"),
        (DEDUP_KEY_HEADER, "orders-3-7"),
        (VALUE_OMITTED, "5000"),
        ("mine", "1"),
    ] {
        assert_eq!(text(&second, name), Some(expected), "{name}");
    }
}

#[test]
fn what_is_worth_least_is_left_out_first() {
    let mut failed = failed(
        Record::builder("t", 0, 0)
            .key(vec![1; 1000])
            .value(vec![2; 4000])
            .header("big", vec![3; 500])
            .header("small", "s")
            .header(TRACEPARENT, vec![4; 300]),
    );
    failed.failure.message = "äö".repeat(10_000);
    // (limit, message at least, stack trace at least, headers, value, key)
    let table = [
        (100_000, 8000, 30_000, true, true, true),
        (40_000, 8000, 10_000, true, true, true),
        (8000, 400, 0, true, true, true),
        (6200, 200, 0, false, true, true),
        (2900, 200, 0, true, false, true),
        (1700, 200, 0, false, false, false),
    ];
    for (limit, message, trace, headers, value, key) in table {
        let output = letter(&failed, limit);
        assert!(
            text(&output, MESSAGE).unwrap().len() >= message,
            "{limit}: message"
        );
        assert!(
            text(&output, STACKTRACE).map_or(0, str::len) >= trace,
            "{limit}: trace"
        );
        assert_eq!(
            text(&output, HEADERS_OMITTED).is_none(),
            headers,
            "{limit}: headers"
        );
        assert_eq!(output.value().is_some(), value, "{limit}: value");
        let omitted = (!value).then_some("4000");
        assert_eq!(text(&output, VALUE_OMITTED), omitted, "{limit}");
        assert_eq!(
            output.key_given(&failed.record).is_some(),
            key,
            "{limit}: key"
        );
        assert_eq!(
            text(&output, KEY_OMITTED),
            (!key).then_some("1000"),
            "{limit}"
        );
        assert_eq!(text(&output, OFFSET), Some("0"), "{limit}");
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (0..max).prop_map(|len| vec![b'x'; len]),
    ]
}

prop_compose! {
    fn any_failed()(
        topic in "[a-z.]{1,249}",
        offset in any::<i64>(),
        key in prop::option::of(bytes(4000)),
        value in prop::option::of(bytes(20_000)),
        timestamp in prop::option::of(any::<i64>()),
        headers in prop::collection::vec((
            prop_oneof![
                Just(TRACEPARENT.to_owned()), Just(ATTEMPTS.to_owned()), Just(VALUE_OMITTED.to_owned()),
                Just(DEDUP_KEY_HEADER.to_owned()), any::<String>(), "x{0,3000}",
            ],
            bytes(5000),
        ), 0..12),
        kind in ".{0,40}",
        message in prop_oneof![any::<String>(), "ä{0,9000}"],
        chain in prop::collection::vec(any::<String>(), 0..4),
        attempts in any::<u32>(),
    ) -> FailureRecord {
        let mut builder = Record::builder(topic, 0, offset);
        if let Some(key) = key { builder = builder.key(key); }
        if let Some(value) = value { builder = builder.value(value); }
        if let Some(timestamp) = timestamp { builder = builder.timestamp_ms(timestamp); }
        for (name, value) in headers { builder = builder.header(name, value); }
        let mut failed = failed(builder);
        failed.failure = Failure { kind, message, chain, attempts, ..failed.failure };
        failed
    }
}

proptest! {
    /// Whatever the record and the limit, it fits; and from 2 KiB on its coordinates are there.
    #[test]
    fn it_always_fits(
        failed in any_failed(),
        group in prop_oneof!["[a-z]{1,30}", "g{0,5000}"],
        limit in prop_oneof![MIN_BYTES..4096, 4096usize..60_000],
    ) {
        let output = dead_letter(&failed, &"dlq".into(), &group, limit);
        let size = output.size_given(&failed.record);
        prop_assert!(size <= limit, "{} > {}", size, limit);
        if limit >= 2048 {
            prop_assert_eq!(text(&output, TOPIC), Some(&**failed.record.topic()));
            let offset = failed.record.offset().to_string();
            prop_assert_eq!(text(&output, OFFSET), Some(&*offset));
            let kept = output.value() == failed.record.value();
            prop_assert!(kept || text(&output, VALUE_OMITTED).is_some());
            let kept = output.key_given(&failed.record) == failed.record.key();
            prop_assert!(kept || text(&output, KEY_OMITTED).is_some());
        }
    }
}
