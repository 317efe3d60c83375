//! Log lines as they come out: written to memory, parsed, compared.

#![allow(clippy::unwrap_used)]

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

use orchestrator_core::Record;
use rdkafka::config::RDKafkaLogLevel;
use serde_json::{Value, json};
use tracing::subscriber::with_default;
use tracing::{Dispatch, error, info, info_span, warn};
use tracing_subscriber::fmt::MakeWriter;

use super::*;

#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Memory {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A subscriber for one thread among others that log without any. As long as a process has a single subscriber, a
/// place in the code that logs asks the one of the thread that comes by first, and if that has none is silent for all;
/// so there is always another.
pub(super) fn among_others() {
    static ANOTHER: OnceLock<Dispatch> = OnceLock::new();
    ANOTHER.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
}

fn text_of(logging: impl FnOnce(&Memory)) -> String {
    among_others();
    let memory = Memory::default();
    logging(&memory);
    memory.text()
}

pub(super) fn parsed(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The JSON lines that `logging` writes.
fn json_lines(logging: impl FnOnce()) -> Vec<Value> {
    let text = text_of(|memory| {
        let layer = ecs::layer(memory.clone(), "orders".into());
        with_default(tracing_subscriber::registry().with(layer), logging);
    });
    parsed(&text)
}

fn pretty(logging: impl FnOnce()) -> String {
    text_of(|memory| {
        let layer = text::layer(memory.clone(), false);
        with_default(tracing_subscriber::registry().with(layer), logging);
    })
}

fn record() -> Record {
    Record::builder("orders", 3, 42).build()
}

#[test]
fn a_json_line_has_the_shape_of_ecs() {
    let text = text_of(|memory| {
        let layer = ecs::layer(memory.clone(), "orders".into());
        with_default(tracing_subscriber::registry().with(layer), || {
            let cause = io::Error::other(io::Error::other("disk full"));
            let error: &(dyn std::error::Error + 'static) = &cause;
            error!(
                target: "t",
                { error, records = 7, ok = false, "event.action" = "commit", kafka.topic = "a\"b" },
                "it \"failed\""
            );
        });
    });
    let first = r#"{"@timestamp":""#;
    assert!(text.starts_with(first), "{text}");
    assert!(
        text.contains(r#"Z","log.level":"error","message":"it \"failed\"","ecs.version":""#),
        "{text}"
    );
    let mut line: Value = serde_json::from_str(&text).unwrap();
    let fields = line.as_object_mut().unwrap();
    fields.remove("@timestamp");
    fields.remove("ecs.version");
    assert_eq!(
        line,
        json!({
            "log.level": "error", "log.logger": "t", "message": "it \"failed\"", "service.name": "orders",
            "error.message": "disk full", "event.action": "commit",
            "labels.records": 7, "labels.ok": false, "labels.kafka_topic": "a\"b",
        })
    );
}

#[test]
fn fields_of_spans_are_labels_too_and_the_innermost_counts() {
    let lines = json_lines(|| {
        let outer = info_span!("outer", worker = 1, epoch = 5);
        let _outer = outer.enter();
        let inner = info_span!("inner", worker = 2, late = tracing::field::Empty);
        inner.record("late", "x");
        let _inner = inner.enter();
        info!("plain");
        info!(worker = 3, "own");
    });
    assert_eq!(lines[0]["labels.worker"], 2);
    assert_eq!(lines[0]["labels.epoch"], 5);
    assert_eq!(lines[0]["labels.late"], "x");
    assert_eq!(lines[1]["labels.worker"], 3);
}

#[test]
fn every_line_of_a_record_carries_its_dedup_key() {
    let logging = || {
        info!("before");
        with_record(&record(), || {
            info!("by the user");
            warn!(dedupKey = "given", "its own");
        });
        info!("after");
    };
    let lines = json_lines(logging);
    let keys: Vec<_> = lines.iter().map(|line| &line["dedupKey"]).collect();
    assert_eq!(
        keys,
        [
            &Value::Null,
            &json!("orders-3-42"),
            &json!("given"),
            &Value::Null
        ]
    );
    let text = pretty(logging);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].ends_with("before"), "{text}");
    assert!(
        lines[1].ends_with("by the user dedupKey=orders-3-42"),
        "{text}"
    );
    assert!(lines[2].ends_with("its own dedupKey=\"given\""), "{text}");
    assert!(lines[3].ends_with("after"), "{text}");
}

#[test]
fn a_dedup_key_from_a_header_cannot_forge_a_line() {
    let record = Record::builder("orders", 3, 42)
        .header(
            "orchestrator.dedup-key",
            "x\n2026 ERROR \x1b[31mall is lost",
        )
        .build();
    let text = pretty(|| with_record(&record, || info!("hello")));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!(
        json_lines(|| with_record(&record, || info!("hello"))).len(),
        1
    );
}

#[test]
fn lines_of_the_log_crate_and_panics_come_out_with_the_dedup_key() {
    // The bridge from `log` stays for the whole process, which costs the other tests nothing.
    tracing_log::LogTracer::init().ok();
    let text = text_of(|memory| {
        let layer = ecs::layer(memory.clone(), "orders".into());
        let _default = tracing_subscriber::registry().with(layer).set_default();
        // Panics of other threads, which have no subscriber, still go to the hook that was there.
        log_panics();
        with_record(&record(), || {
            log::warn!(target: "their::library", "careful");
            let caught = std::panic::catch_unwind(|| panic!("no {}", "stock"));
            assert!(caught.is_err());
        });
        drop(panic::take_hook());
    });
    let find = |message: &str| -> Value {
        let line = text.lines().find(|line| line.contains(message)).unwrap();
        serde_json::from_str(line).unwrap()
    };
    let line = find("careful");
    assert_eq!(line["log.logger"], "their::library");
    assert_eq!(line["log.level"], "warn");
    assert_eq!(line["dedupKey"], "orders-3-42");
    let line = find("panic: no stock");
    assert_eq!(line["error.type"], "panic");
    assert_eq!(line["error.message"], "no stock");
    assert_eq!(line["dedupKey"], "orders-3-42");
    let location = line["labels.location"].as_str().unwrap();
    assert!(location.contains("telemetry/tests.rs:"), "{location}");
}

#[test]
fn librdkafka_speaks_through_tracing() {
    let lines = json_lines(|| {
        let refused =
            "[thrd:x]: kafka.test:9092/1: Connection refused (after 1ms in state CONNECT)";
        kafka_log(RDKafkaLogLevel::Error, "FAIL", refused);
        kafka_log(RDKafkaLogLevel::Error, "FAIL", refused);
        kafka_log(
            RDKafkaLogLevel::Notice,
            "CONF",
            "sasl.password=hunter2 is odd",
        );
        kafka_log(
            RDKafkaLogLevel::Critical,
            "FATAL",
            "kafka.test: fatal error",
        );
    });
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line["log.level"].as_str(), line["labels.facility"].as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (Some("warn"), Some("FAIL")),
            (Some("info"), Some("CONF")),
            (Some("error"), Some("FATAL"))
        ]
    );
    assert_eq!(lines[1]["message"], "sasl.password=*** is odd");
    assert_eq!(lines[1]["log.logger"], "kafka");
}

#[test]
fn rust_log_is_read_with_info_as_default() {
    assert_eq!(filter(String::new()).unwrap().to_string(), "info");
    let some = filter("warn,orchestrator_runtime=debug".into()).unwrap();
    assert!(some.to_string().contains("orchestrator_runtime=debug"));
    let error = filter("orchestrator=loud=".into()).unwrap_err().to_string();
    assert!(error.starts_with("RUST_LOG=orchestrator=loud="), "{error}");
}
