//! The report as one page that needs nothing else.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::{Story, charts};
use crate::traffic::ms;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; color: #22262b; max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p.sub { color: #60666e; margin-top: 0; }
.verdict { padding: .7rem 1rem; border-radius: 6px; margin: 1rem 0; }
.well { background: #e6f4ea; border-left: 5px solid #2e7d4f; } .ill { background: #fbe9ea; border-left: 5px solid #b82c3a; }
.verdict li { white-space: pre-line; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .6rem; margin-bottom: 1rem; }
.tile { border: 1px solid #e4e7eb; border-radius: 6px; padding: .5rem .8rem; }
.tile b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; } .tile span { color: #60666e; font-size: .85rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eef0f2; }
td { font-variant-numeric: tabular-nums; word-break: break-word; } svg { max-width: 100%; height: auto; }
";

pub(super) fn page(story: &Story<'_>, summary: &Value) -> Result<String> {
    let run = story.run;
    let seconds = &run.seconds;
    let mut page = String::new();
    write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}: {1} records</title><style>{STYLE}</style>\
         <h1>{0}: {1} records</h1><p class=\"sub\">{2}, commit {3}</p>",
        text(story.command),
        grouped(run.counts.sent),
        shown(&summary["machine"]),
        shown(&summary["commit"]),
    )?;
    verdict(&mut page, story)?;

    page.push_str("<div class=\"tiles\">");
    let quantile = |q| format!("{:.1} ms", ms(&seconds.latencies, q));
    tile(
        &mut page,
        "records per second",
        &grouped(number(summary, "recordsPerSecond") as u64),
    )?;
    for (name, q) in [
        ("p50", 0.5),
        ("p90", 0.9),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("max", 1.0),
    ] {
        tile(&mut page, &format!("latency {name}"), &quantile(q))?;
    }
    for (name, key, unit, factor) in [
        (
            "program: CPU per million",
            "programCpuSecondsPerMillion",
            "s",
            1.0,
        ),
        (
            "broker: CPU per million",
            "brokerCpuSecondsPerMillion",
            "s",
            1.0,
        ),
        (
            "program: peak memory",
            "programPeakRssBytes",
            "MiB",
            1_048_576.0,
        ),
        ("start to first output", "firstOutputSeconds", "s", 1.0),
        ("SIGTERM to end", "exitSeconds", "s", 1.0),
    ] {
        if let Some(value) = summary[key].as_f64() {
            tile(&mut page, name, &format!("{:.2} {unit}", value / factor))?;
        }
    }
    page.push_str("</div>");
    write!(
        page,
        "<p class=\"sub\">Latency is measured from {} until a read_committed reader has the output or dead letter, for \
         {} records.{}</p>",
        text(story.measured_from()),
        grouped(seconds.latencies.len()),
        lateness(story),
    )?;

    for (title, picture) in [
        ("Latency over time", charts::latency(seconds)?),
        (
            "Latency by percentile, the tail stretched",
            charts::percentiles(seconds)?,
        ),
        ("Throughput", charts::throughput(seconds)?),
        ("Lag: sent and not seen yet", charts::lag(seconds)?),
    ] {
        write!(page, "<h2>{title}</h2>{picture}")?;
    }
    if seconds.all.iter().any(|one| one.usage.is_some()) {
        let picture = charts::memory(seconds)?;
        write!(page, "<h2>Memory of the program</h2>{picture}")?;
    }
    page.push_str("<h2>Set-up</h2><table>");
    for (key, value) in &story.settings {
        write!(
            page,
            "<tr><td>{}</td><td>{}</td></tr>",
            text(key),
            text(value)
        )?;
    }
    page.push_str("</table></html>\n");
    Ok(page)
}

/// How late the generator was, where it had moments to keep.
fn lateness(story: &Story<'_>) -> String {
    if !story.open_loop {
        return String::new();
    }
    let late = &story.run.seconds.late;
    let (most, max) = (ms(late, 0.99), ms(late, 1.0));
    format!(" Orders were sent at most {max:.1} ms late, 99 % of them within {most:.2} ms.")
}

fn verdict(page: &mut String, story: &Story<'_>) -> Result<()> {
    let class = if story.is_well() { "well" } else { "ill" };
    write!(page, "<div class=\"verdict {class}\">")?;
    match story.verdict {
        Some(verdict) if story.is_well() => write!(
            page,
            "<b>Every order is accounted for, exactly once and in order.</b> {} orders: {} outputs, {} dead letters, {} \
             rows in the ledger; nothing lost, nothing doubled, nothing extra.",
            grouped(verdict.orders),
            grouped(verdict.outputs),
            grouped(verdict.dead_letters),
            grouped(verdict.ledger_rows),
        )?,
        None if story.is_well() => {
            page.push_str("<b>Every order was seen.</b> Contents were not audited.");
        }
        _ => page.push_str("<b>Something is wrong.</b>"),
    }
    if !story.is_well() {
        page.push_str("<ul>");
        for complaint in &story.complaints {
            write!(page, "<li>{}</li>", text(complaint))?;
        }
        for finding in story.verdict.iter().flat_map(|verdict| &verdict.findings) {
            let examples = finding.examples.join(", ");
            write!(
                page,
                "<li>{}: {} times (for example {})</li>",
                text(finding.what),
                grouped(finding.count),
                text(&examples)
            )?;
        }
        page.push_str("</ul>");
    }
    page.push_str("</div>");
    Ok(())
}

fn tile(page: &mut String, name: &str, value: &str) -> Result<()> {
    let (name, value) = (text(name), text(value));
    write!(
        page,
        "<div class=\"tile\"><b>{value}</b><span>{name}</span></div>"
    )?;
    Ok(())
}

fn number(summary: &Value, key: &str) -> f64 {
    summary[key].as_f64().unwrap_or(0.0)
}

fn shown(value: &Value) -> String {
    text(value.as_str().unwrap_or_default())
}

fn text(raw: &str) -> String {
    raw.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// 1,000,000.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<&str> = groups
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_are_grouped() {
        for (number, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(number), shown);
        }
    }
}
