//! Makes what rdkafka sends of an output and the record it was made of. Called once per output: nothing may be
//! allocated for one without headers.

use orchestrator_core::output::TRACEPARENT;
use orchestrator_core::{Output, Record};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

pub(super) fn outgoing<'a>(
    topic: &'a str,
    slice: usize,
    record: &'a Record,
    output: &'a Output,
) -> BaseRecord<'a, [u8], [u8], usize> {
    BaseRecord {
        topic,
        partition: None,
        payload: output.value(),
        key: output.key_given(record),
        timestamp: output.timestamp_given(record),
        headers: headers(record, output),
        delivery_opaque: slice,
    }
}

fn headers(record: &Record, output: &Output) -> Option<OwnedHeaders> {
    let traceparent = output.traceparent_given(record);
    let count = output.headers().len() + usize::from(traceparent.is_some());
    if count == 0 {
        return None;
    }
    let own = output
        .headers()
        .iter()
        .map(|(key, value)| (&**key, value.as_deref()));
    let inherited = traceparent.map(|value| (TRACEPARENT, Some(value)));
    let empty = OwnedHeaders::new_with_capacity(count);
    let all = own.chain(inherited).fold(empty, |headers, (key, value)| {
        headers.insert(Header { key, value })
    });
    Some(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rdkafka::message::Headers;

    use super::*;

    #[test]
    fn headers_are_the_outputs_own_and_the_inherited_traceparent() {
        let record = Record::builder("in", 0, 0)
            .header(TRACEPARENT, "00-a")
            .header("not", "inherited")
            .build();
        let output = Output::tombstone()
            .with_header("a", "1")
            .with_null_header("b");
        let sent = outgoing("out", 7, &record, &output);
        assert_eq!((sent.topic, sent.delivery_opaque), ("out", 7));
        assert!(sent.payload.is_none() && sent.key.is_none());
        let headers = sent.headers.unwrap();
        let seen: Vec<_> = headers.iter().map(|h| (h.key, h.value)).collect();
        assert_eq!(
            seen,
            [
                ("a", Some(&b"1"[..])),
                ("b", None),
                (TRACEPARENT, Some(&b"00-a"[..]))
            ]
        );
    }

    #[test]
    fn an_output_without_headers_has_none() {
        let record = Record::builder("in", 0, 0).key("k").timestamp_ms(5).build();
        let sent = outgoing("out", 0, &record, &Output::new("v")).headers;
        assert!(sent.is_none());
    }
}
