//! The same record is known again, whatever carries its identity; what has none has none.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::orders::{Orders, expected_output};

fn record<'a>(value: &'a str, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Seen<'a> {
    Seen {
        topic: "t",
        partition: 1,
        offset: 2,
        key: Some(b"k"),
        value: Some(value.as_bytes()),
        headers,
    }
}

#[track_caller]
fn check(identity: &str, value: &str, expected: Option<&str>) {
    let headers = [
        ("id", Some(&b"first"[..])),
        ("id", Some(&b"last"[..])),
        ("none", None),
    ];
    let identity: Identity = identity.parse().unwrap();
    let expected = expected.map(|text| Id::of(text.as_bytes()));
    assert_eq!(identity.of(&record(value, &headers)), expected);
}

#[test]
fn it_is_found_where_it_was_said_to_be() {
    check("key", "v", Some("k"));
    check("value", "v", Some("v"));
    check("header:id", "v", Some("last"));
    check("header:none", "v", None);
    check("header:other", "v", None);
    check("prefix:;", "a;b;c", Some("a"));
    check("prefix:::", "a::b", Some("a"));
    check("prefix:;", "a", None);
    check("json:/a/0/b", r#"{"a":[{"b":"x"}]}"#, Some("x"));
    check("json:/a~1b", r#"{"a/b":17}"#, Some("17"));
    check("json:/a", r#"{"a":"17"}"#, Some("17"));
    check("json:/a", r#"{"a":null}"#, None);
    check("json:/a", "{", None);
    check("dedup-key", "v", Some("t-1-2"));
}

#[test]
fn a_dedup_key_is_known_again_with_its_index() {
    for (key, expected) in [
        ("t-1-2#0", "t-1-2"),
        ("t-1-2", "t-1-2"),
        ("a#b#12", "a#b"),
        ("a#", "a#"),
    ] {
        let headers = [(DEDUP_KEY, Some(key.as_bytes()))];
        let id = Identity::DedupKey.of(&record("v", &headers));
        assert_eq!(id, Some(Id::of(expected.as_bytes())), "{key}");
    }
}

#[test]
fn an_order_is_known_by_its_id() {
    let order = Orders::new(1).order(7);
    let output = expected_output(order.value.as_bytes()).unwrap();
    let identity = Identity::Json("/order_id".to_owned());
    let id = identity.of(&record(&order.value, &[]));
    assert!(id.is_some());
    assert_eq!(id, identity.of(&record(&output, &[])));
}

#[test]
fn what_is_malformed_is_named_with_the_remedy() {
    for (text, said) in [
        ("keys", "\"keys\" is no place"),
        ("key:x", "give key, value"),
        ("header:", "header:order-id"),
        ("json:order_id", "json:/order_id"),
        ("prefix:", "prefix:;"),
    ] {
        let error = text.parse::<Identity>().unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
}
