//! The log line for people: tracing's own, with ` dedupKey=..` at its end while a record is handled. Used by
//! `init_logging` only.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::record;

/// A layer that writes such lines.
pub(super) fn layer<S, W>(writer: W, colours: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colours)
        .event_format(WithDedupKey(Format::default().with_ansi(colours)))
}

struct WithDedupKey(Format);

impl<S, N> FormatEvent<S, N> for WithDedupKey
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        cx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let has_its_own = event.metadata().fields().field("dedupKey").is_some();
        let Some(key) = record::dedup_key().filter(|_| !has_its_own) else {
            return self.0.format_event(cx, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(cx, Writer::new(&mut line), event)?;
        // A key may come from a header: what it holds must not forge a line or colour the terminal.
        writeln!(
            writer,
            "{} dedupKey={}",
            line.trim_end(),
            key.escape_debug()
        )
    }
}
