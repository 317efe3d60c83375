//! Tests of ledger rows: nothing is lost that is kept, and nothing is kept that a database would refuse.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::error::{Stage, TransformError};
use crate::failure::Failure;

fn failed(record: Record, message: String) -> FailureRecord {
    let error = TransformError::permanent(message).at_stage(Stage::Decode);
    FailureRecord {
        record,
        target_topic: Some("out".into()),
        failure: Failure::of(&error, 2, 50),
        dead_lettered: true,
        fence: 40,
    }
}

#[test]
fn a_row_says_what_failed_and_why() {
    let record = Record::builder("orders", 3, 7)
        .key("k")
        .value("v")
        .timestamp_ms(5)
        .header("a", "1")
        .header("b", [0xff, 0x00])
        .build();
    let row = LedgerRow::failed(&failed(record.clone(), "no such sku".into()), true);
    assert_eq!(row.position, record.position());
    assert_eq!(
        (row.record_timestamp_ms, row.attempts, row.fence),
        (5, 2, 40)
    );
    assert_eq!(row.headers, r#"[["a","1"],["b",{"hex":"ff00"}]]"#);
    assert_eq!(row.message_key.as_deref(), Some(&b"k"[..]));
    assert_eq!(row.payload.as_deref(), Some(&b"v"[..]));
    assert_eq!(
        (&*row.dedup_key, row.origin_dedup_key.clone()),
        ("orders-3-7", None)
    );
    let bare = row.clone().bare();
    let said = r#"[["orchestrator.value-omitted","1"],["orchestrator.key-omitted","1"]]"#;
    assert_eq!(
        (bare.payload, bare.message_key, &bare.headers[..]),
        (None, None, said.as_bytes())
    );
    let error = row.error.unwrap();
    assert_eq!(error.message, "no such sku");
    assert_eq!(error.chain, "TransformError (decode): no such sku");
}

#[test]
fn what_is_not_kept_is_said() {
    let huge = vec![b'x'; PAYLOAD_MAX_BYTES + 1];
    let record = |value: Option<&[u8]>| {
        let record = Record::builder("t", 0, 0).key(vec![1; KEY_MAX_BYTES + 1]);
        value
            .map_or(record.clone(), |value| record.value(value))
            .build()
    };
    for (value, keep, payload, said) in [
        (
            None,
            true,
            false,
            r#"[["orchestrator.key-omitted","65537"]]"#,
        ),
        (
            Some(&b"v"[..]),
            true,
            true,
            r#"[["orchestrator.key-omitted","65537"]]"#,
        ),
        (
            Some(b"v"),
            false,
            false,
            r#"[["orchestrator.value-omitted","1"],["orchestrator.key-omitted","65537"]]"#,
        ),
        (
            Some(&huge),
            true,
            false,
            r#"[["orchestrator.value-omitted","1048577"],["orchestrator.key-omitted","65537"]]"#,
        ),
    ] {
        let failed = failed(record(value), String::new());
        let row = LedgerRow::failed(&failed, keep);
        assert_eq!(row.payload.is_some(), payload);
        assert_eq!(row.message_key, None);
        assert_eq!(row.headers, said);
        // Of one that was only taken, what is left out by order is not said.
        let row = LedgerRow::received(&failed.record, 0, keep);
        assert_eq!(row.payload.is_some(), payload);
        assert_eq!(row.headers == said, keep, "{:?}", row.headers);
    }
}

#[test]
fn a_dedup_key_that_came_along_is_kept_as_such() {
    let record = Record::builder("t", 0, 9)
        .header(DEDUP_KEY_HEADER, "orders-1-2")
        .build();
    let row = LedgerRow::received(&record, 0, true);
    assert_eq!(row.dedup_key, "orders-1-2");
    assert_eq!(row.origin_dedup_key.as_deref(), Some("orders-1-2"));
}

/// The headers of a row, as redriving them would read them.
fn decoded(row: &LedgerRow) -> Vec<(String, Option<Vec<u8>>)> {
    let headers: Vec<(String, Value)> = serde_json::from_slice(&row.headers).unwrap();
    let value = |value: Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.into_bytes()),
        other => {
            let hex = other["hex"].as_str().unwrap();
            Some(
                (0..hex.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                    .collect(),
            )
        }
    };
    headers
        .into_iter()
        .map(|(name, v)| (name, value(v)))
        .collect()
}

proptest! {
    #[test]
    fn headers_come_back_as_they_were(
        headers in prop::collection::vec(("[^\0]{0,20}", prop::collection::vec(any::<u8>(), 0..50)), 0..8),
    ) {
        let mut builder = Record::builder("t", 0, 0);
        for (name, value) in &headers {
            builder = builder.header(name, value.clone());
        }
        let row = LedgerRow::received(&builder.build(), 0, true);
        let expected: Vec<_> = headers.into_iter().map(|(name, value)| (name, Some(value))).collect();
        prop_assert_eq!(decoded(&row), expected);
    }

    #[test]
    fn sizes_are_capped_and_text_is_clean(
        message in prop_oneof![any::<String>(), "\0{0,9000}", "ä{0,20000}"],
        dedup_key in prop::collection::vec(any::<u8>(), 0..2000),
        header in (0usize..200_000).prop_map(|len| vec![0xff; len]),
    ) {
        let record = Record::builder("t", 0, 0).header(DEDUP_KEY_HEADER, dedup_key).header("h", header).build();
        let row = LedgerRow::failed(&failed(record, message), true);
        prop_assert!(row.headers.len() <= HEADERS_MAX_BYTES);
        prop_assert!(serde_json::from_slice::<Value>(&row.headers).is_ok());
        let bare = row.clone().bare();
        let error = row.error.unwrap();
        prop_assert!(error.message.len() <= MESSAGE_MAX_BYTES);
        prop_assert!(error.chain.len() <= CHAIN_MAX_BYTES);
        prop_assert!(row.dedup_key.len() <= DEDUP_KEY_MAX_BYTES);
        for text in [&error.message, &error.chain, &row.dedup_key] {
            prop_assert!(!text.contains('\0'));
        }
        prop_assert!(bare.size() < 2048);
    }
}
