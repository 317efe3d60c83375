//! What is put into a record comes out of it.

use super::*;

#[test]
fn a_record_gives_back_what_was_put_in() {
    let record = Record::builder("orders", 3, 7)
        .key("k")
        .value("v")
        .timestamp_ms(5)
        .header("a", "1")
        .header("a", "2")
        .build();
    assert_eq!(record.key(), Some(&b"k"[..]));
    assert_eq!(record.value(), Some(&b"v"[..]));
    assert_eq!(record.header("a"), Some(&b"2"[..]));
    assert_eq!(record.header("b"), None);
    assert_eq!(record.headers().count(), 2);
    assert_eq!(record.dedup_key().as_str(), "orders-3-7");
}

#[test]
fn null_and_empty_are_told_apart() {
    let record = Record::builder("t", 0, 0).key("").build();
    assert_eq!(record.key(), Some(&b""[..]));
    assert_eq!(record.value(), None);
    assert_eq!(record.value_bytes(), None);
}

#[test]
fn a_detached_record_reads_the_same_and_frees_its_batch() {
    let mut buffer = RecordBuffer::default();
    for offset in 0..100 {
        let value = offset.to_string();
        buffer.push(
            offset,
            None,
            Some(b"key"),
            Some(value.as_bytes()),
            [("h", None), ("i", Some(&b"x"[..]))],
        );
    }
    let records = buffer.freeze(&SourcePartition::new("t", 0));
    let own = records[42].detached();
    assert_eq!(own.shared.bytes.len(), own.size());
    assert_eq!(own.value(), Some(&b"42"[..]));
    assert_eq!(own.key(), Some(&b"key"[..]));
    assert!(own.headers().eq([("h", None), ("i", Some(&b"x"[..]))]));
}

#[test]
fn the_dedup_key_of_an_earlier_trip_is_kept() {
    let record = Record::builder("t", 0, 9)
        .header(DEDUP_KEY_HEADER, "orders-1-2")
        .build();
    assert_eq!(record.dedup_key().as_str(), "orders-1-2");
}
