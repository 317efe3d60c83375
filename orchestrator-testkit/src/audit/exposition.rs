//! The auditor's own metrics, as Prometheus reads them. Pure.

use std::fmt::Write as _;

use super::{Auditor, Kind, Pass};

/// What an audit that goes on has to say, in the text format of Prometheus. Every kind of violation is there from the
/// start, with 0.
pub fn exposition(
    auditor: &Auditor,
    group: &str,
    last: Option<Pass>,
    failed_passes: u64,
) -> String {
    let group = group.replace('\\', "\\\\").replace('"', "\\\"");
    let mut text = String::new();
    head(
        &mut text,
        "orch_audit_violations_total",
        "counter",
        "What is wrong, by kind.",
    );
    for kind in Kind::ALL {
        let (label, count) = (kind.label(), auditor.violations(kind));
        line(
            &mut text,
            &format!(
                "orch_audit_violations_total{{pipeline=\"{group}\",kind=\"{label}\"}} {count}"
            ),
        );
    }
    let counts = auditor.counts();
    let lag = last.map_or(0, |pass| pass.lag);
    let judged = last.is_some_and(|pass| pass.judged);
    for (name, kind, value, help) in [
        (
            "records_total",
            "counter",
            counts.records,
            "Source records passed and judged.",
        ),
        (
            "records_filtered_total",
            "counter",
            counts.filtered,
            "Of them, without outputs, as allowed.",
        ),
        (
            "records_failed_total",
            "counter",
            counts.failed,
            "Of them, dead letters or rows of the ledger.",
        ),
        ("outputs_total", "counter", counts.outputs, "Outputs seen."),
        (
            "dead_letters_total",
            "counter",
            counts.dead_letters,
            "Dead letters seen.",
        ),
        (
            "ledger_rows_total",
            "counter",
            counts.ledger_rows,
            "Judged records with a row FAILED.",
        ),
        (
            "failed_passes_total",
            "counter",
            failed_passes,
            "Passes given up because cluster or ledger did not answer.",
        ),
        (
            "waiting_records",
            "gauge",
            counts.waiting,
            "Source records read that are not judged yet.",
        ),
        (
            "lag",
            "gauge",
            lag,
            "Source offsets that the group had not passed at the last pass.",
        ),
        (
            "judged",
            "gauge",
            u64::from(judged),
            "1 if the last pass could judge all that was passed.",
        ),
    ] {
        let name = format!("orch_audit_{name}");
        head(&mut text, &name, kind, help);
        line(
            &mut text,
            &format!("{name}{{pipeline=\"{group}\"}} {value}"),
        );
    }
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, &format!("# HELP {name} {help}"));
    line(text, &format!("# TYPE {name} {kind}"));
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "{line}").unwrap_or_default();
}
