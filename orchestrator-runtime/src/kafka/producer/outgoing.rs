//! Makes what is sent of an output and the record it was made of. Called once per output: nothing may be allocated for
//! one without headers.

use orchestrator_core::output::TRACEPARENT;
use orchestrator_core::{Output, Record};

use super::super::ffi::{Headers, Outgoing};

pub(super) fn outgoing<'a>(topic: &'a str, record: &'a Record, output: &'a Output) -> Outgoing<'a> {
    Outgoing {
        topic,
        key: output.key_given(record),
        value: output.value(),
        timestamp_ms: output.timestamp_given(record),
        headers: Headers::of(headers(record, output)),
    }
}

/// The output's own headers and those it inherits.
fn headers<'a>(
    record: &'a Record,
    output: &'a Output,
) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
    let own = output
        .headers()
        .iter()
        .map(|(name, value)| (&**name, value.as_deref()));
    let inherited = output.traceparent_given(record);
    own.chain(inherited.map(|value| (TRACEPARENT, Some(value))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
        let given: Vec<_> = headers(&record, &output).collect();
        assert_eq!(
            given,
            [
                ("a", Some(&b"1"[..])),
                ("b", None),
                (TRACEPARENT, Some(&b"00-a"[..]))
            ]
        );
        let sent = outgoing("out", &record, &output);
        assert_eq!(sent.topic, "out");
        assert!(sent.headers.is_some() && sent.value.is_none() && sent.key.is_none());
    }

    #[test]
    fn an_output_without_headers_has_none() {
        let record = Record::builder("in", 0, 0).key("k").timestamp_ms(5).build();
        let sent = outgoing("out", &record, &Output::new("v")).headers;
        assert!(sent.is_none());
    }
}
