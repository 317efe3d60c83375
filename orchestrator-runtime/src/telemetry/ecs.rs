//! The JSON log line, in the shape of the Elastic Common Schema: `@timestamp`, `log.level`, `message`, `ecs.version`
//! first, errors as `error.*`, all fields of the event and its spans as `labels.*`. Used by `init_logging` only.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;

use json_subscriber::{FieldWriter, JsonLayer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::record;

const ECS_VERSION: &str = "8.17.0";
/// Fields of these families are ECS fields already; all others become labels.
const ECS_FAMILIES: [&str; 4] = ["error.", "event.", "trace.", "span."];
/// The field every line of a record carries.
const DEDUP_KEY: &str = "dedupKey";

/// A layer that writes such lines.
pub(super) fn layer<S, W>(writer: W, service: String) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let mut lines = JsonLayer::new(writer);
    lines.add_multiple_dynamic_fields(
        move |event: &Event<'_>, cx: &Context<'_, S>, out: &mut FieldWriter<'_>| {
            if let Err(error) = write_line(event, cx, &service, out) {
                eprintln!("a log line could not be written whole: {error}");
            }
        },
    );
    SpanFields.and_then(lines)
}

fn write_line<S>(
    event: &Event<'_>,
    cx: &Context<'_, S>,
    service: &str,
    out: &mut FieldWriter<'_>,
) -> serde_json::Result<()>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let normalized = event.normalized_metadata();
    let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
    let fields = all_fields(event, cx);

    out.write_field("@timestamp", timestamp())?;
    out.write_field("log.level", level(metadata.level()))?;
    out.write_field("message", &fields.message)?;
    out.write_field("ecs.version", ECS_VERSION)?;
    out.write_field("log.logger", metadata.target())?;
    out.write_field("service.name", service)?;
    if let Some(key) = &fields.dedup_key {
        out.write_field(DEDUP_KEY, key)?;
    }
    for (name, value) in &fields.named {
        out.write_field(name, value)?;
    }
    Ok(())
}

/// The event's own fields, and under them those of its spans, the innermost first.
fn all_fields<S>(event: &Event<'_>, cx: &Context<'_, S>) -> Fields
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut fields = Fields::default();
    for span in cx.event_scope(event).into_iter().flatten() {
        if let Some(outer) = span.extensions().get::<Fields>() {
            fields.fill_up(outer);
        }
    }
    if let Some(key) = record::dedup_key() {
        fields.dedup_key = Some(key.into());
    }
    event.record(&mut fields);
    fields
}

fn timestamp() -> String {
    let mut text = String::with_capacity(32);
    match SystemTime.format_time(&mut Writer::new(&mut text)) {
        Ok(()) => text,
        Err(_) => String::new(),
    }
}

fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Fields by their ECS names.
#[derive(Default)]
struct Fields {
    message: String,
    dedup_key: Option<Value>,
    named: BTreeMap<Cow<'static, str>, Value>,
}

impl Fields {
    fn fill_up(&mut self, outer: &Fields) {
        if self.dedup_key.is_none() {
            self.dedup_key.clone_from(&outer.dedup_key);
        }
        for (name, value) in &outer.named {
            if !self.named.contains_key(name) {
                self.named.insert(name.clone(), value.clone());
            }
        }
    }

    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name().trim_start_matches("r#");
        match name {
            "message" => self.message = plain(value),
            DEDUP_KEY => self.dedup_key = Some(value),
            "error" | "err" => {
                self.named
                    .insert("error.message".into(), plain(value).into());
            }
            // What the `log` bridge adds for itself: `normalized_metadata` has it.
            _ if name.starts_with("log.") => {}
            _ if ECS_FAMILIES.iter().any(|family| name.starts_with(family)) => {
                self.named.insert(name.into(), value);
            }
            // A label's name has no dots.
            _ => {
                let label = format!("labels.{}", name.replace('.', "_"));
                self.named.insert(label.into(), value);
            }
        }
    }
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    /// The error's text with those of its causes.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        self.put(field, text.into());
    }
}

/// Keeps the fields of each span where lines find them.
struct SpanFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }
}
