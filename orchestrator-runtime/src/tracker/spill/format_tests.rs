//! Tests of the format: what is written is read, what is damaged is noticed, what is absent has a default.
#![allow(clippy::unwrap_used)]

use orchestrator_core::Topic;
use proptest::prelude::*;

use super::super::super::fake_store::{identity, orders};
use super::*;

/// Text and bytes with everything in them that JSON has to escape.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,20}", "[\\x00-\\x1f\"\\\\/{}:,\u{7f}\u{2028}é🦀]{0,20}"]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        text().prop_map(Bytes::from),
    ]
}

fn partition() -> impl Strategy<Value = SourcePartition> {
    (text(), any::<i32>()).prop_map(|(topic, partition)| SourcePartition::new(topic, partition))
}

fn error() -> impl Strategy<Value = RowError> {
    let classes = [
        FailureClass::Permanent,
        FailureClass::Transient,
        FailureClass::Infrastructure,
    ];
    (prop::sample::select(classes.to_vec()), text(), text()).prop_map(|(class, message, chain)| {
        RowError {
            class,
            message,
            chain,
        }
    })
}

fn row() -> impl Strategy<Value = Box<LedgerRow>> {
    let texts = (
        prop::option::of(text()),
        text(),
        prop::option::of(text()),
        prop::option::of(error()),
    );
    let blobs = (
        prop::option::of(bytes()),
        bytes(),
        prop::option::of(bytes()),
    );
    let numbers = (
        any::<i64>(),
        any::<i64>(),
        any::<u32>(),
        any::<i64>(),
        any::<Option<i64>>(),
        any::<bool>(),
    );
    (partition(), texts, blobs, numbers).prop_map(|(partition, texts, blobs, numbers)| {
        Box::new(LedgerRow {
            position: partition.at(numbers.0),
            record_timestamp_ms: numbers.1,
            target_topic: texts.0.map(Topic::from),
            message_key: blobs.0,
            headers: blobs.1,
            attempts: numbers.2,
            dedup_key: texts.1,
            origin_dedup_key: texts.2,
            error: texts.3,
            payload: blobs.2,
            dead_lettered: numbers.5,
            fence: numbers.3,
            passed_at_ms: numbers.4,
        })
    })
}

pub(in crate::tracker::spill) fn entry() -> impl Strategy<Value = Entry> {
    let place = || (partition(), any::<i64>(), any::<i64>(), any::<i64>());
    prop_oneof![
        row().prop_map(Entry::Received),
        row().prop_map(Entry::Failed),
        place().prop_map(|(partition, offset, _, at_ms)| Entry::Passed {
            position: partition.at(offset),
            at_ms,
        }),
        place().prop_map(|(partition, from, next, at_ms)| {
            let range = OffsetRange {
                partition,
                from,
                next,
            };
            Entry::Succeeded { range, at_ms }
        }),
    ]
}

fn written(entry: &Entry) -> Vec<u8> {
    let mut line = Vec::new();
    write_entry(entry, &mut line).unwrap();
    line
}

/// The entries between two line ends, and how many were lost.
fn read(text: &[u8]) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let lost = read_lines(text, |line| {
        if let Line::Entry(entry) = line {
            entries.push(entry);
        }
    });
    (entries, lost)
}

/// A line with these members and a good checksum.
fn line_of(members: &str) -> Vec<u8> {
    let body = members.strip_suffix('}').unwrap();
    format!(
        "{body},\"crc\":\"{:08x}\"}}",
        crc32fast::hash(body.as_bytes())
    )
    .into_bytes()
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_is_one_line_of_json(entry in entry()) {
        let line = written(&entry);
        let (end, text) = line.split_last().unwrap();
        prop_assert_eq!(*end, b'\n');
        prop_assert!(!text.contains(&b'\n'));
        let json: serde_json::Value = serde_json::from_slice(text).unwrap();
        prop_assert!(json["entry"].is_string());
        prop_assert_eq!(read(text), (vec![entry], 0));
    }

    #[test]
    fn a_line_with_one_byte_changed_is_never_taken_for_another(
        entry in entry(), at in any::<prop::sample::Index>(), by in 1..=255u8,
    ) {
        let mut line = written(&entry);
        line.pop();
        let at = at.index(line.len());
        line[at] ^= by;
        prop_assert_eq!(read(&line), (vec![], 1));
    }

    #[test]
    fn where_the_line_end_is_damaged_both_lines_are_read(
        first in entry(), second in entry(), by in prop::option::of(any::<u8>()),
    ) {
        let mut lines = written(&first);
        lines.pop();
        lines.extend(by);
        lines.extend(written(&second));
        lines.pop();
        prop_assert_eq!(read(&lines), (vec![first, second], 0));
    }

    #[test]
    fn nothing_at_all_makes_it_panic(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&garbage).0.is_empty());
    }
}

#[test]
fn a_header_says_whose_the_file_is() {
    let mut line = Vec::new();
    write_header(&identity(), &mut line).unwrap();
    line.pop();
    let Some(Line::Header(header)) = parse(&line) else {
        panic!("no header: {line:?}");
    };
    assert_eq!(header.whose(&identity()), Whose::Ours);
    let other = LedgerIdentity {
        consumer_group: "h".into(),
        ..identity()
    };
    assert_eq!(header.whose(&other), Whose::Other);
    let later = line_of(
        r#"{"format":"orchestrator-spill","version":2,"cluster_id":"c","consumer_group":"g","x":1}"#,
    );
    let Some(Line::Header(header)) = parse(&later) else {
        panic!("no header");
    };
    assert_eq!(header.whose(&identity()), Whose::TooNew);
}

#[test]
fn members_may_be_absent_null_or_unknown() {
    let least = r#"{"entry":"failed","topic":"orders","partition":0,"offset":7}"#;
    let more = r#"{"entry":"failed","topic":"orders","partition":0,"offset":7,"payload":null,"new":{"a":[1]}}"#;
    let expected = LedgerRow {
        position: orders().at(7),
        record_timestamp_ms: NO_TIMESTAMP,
        target_topic: None,
        message_key: None,
        headers: Bytes::from_static(b"[]"),
        attempts: 0,
        dedup_key: "orders-0-7".into(),
        origin_dedup_key: None,
        error: None,
        payload: None,
        dead_lettered: false,
        fence: 0,
        passed_at_ms: None,
    };
    for members in [least, more] {
        let expected = Entry::Failed(Box::new(expected.clone()));
        assert_eq!(read(&line_of(members)), (vec![expected], 0));
    }
    let of_a_later_version = r#"{"entry":"abolished","topic":"orders","partition":0,"offset":7}"#;
    assert_eq!(read(&line_of(of_a_later_version)), (vec![], 1));
}

#[test]
fn bytes_are_text_where_they_can_be_read() {
    let entry = |payload: &'static [u8]| {
        let row = LedgerRow {
            payload: Some(Bytes::from_static(payload)),
            ..LedgerRow::failed(&super::super::super::fake_store::failed(1, 1), false)
        };
        let line = String::from_utf8(written(&Entry::Failed(Box::new(row)))).unwrap();
        let (_, payload) = line.split_once("\"payload\":").unwrap();
        payload.split_once(",\"fence\"").unwrap().0.to_owned()
    };
    assert_eq!(entry(b"a \"word\"\n"), r#""a \"word\"\n""#);
    assert_eq!(entry(b""), r#""""#);
    assert_eq!(entry(b"\xff"), r#"{"base64":"/w=="}"#);
    assert_eq!(
        entry(b"\0\0\0\0\x01"),
        r#"{"base64":"AAAAAAE="}"#,
        "shorter"
    );
}
