//! The figures of a run. Names are those of the OpenMessaging benchmark's results where it has the same thing;
//! latencies in milliseconds.

use serde_json::{Map, Value, json};

use super::{Story, commit, machine};
use crate::traffic::{Second, ms};

const QUANTILES: [(&str, f64); 7] = [
    ("50pct", 0.5),
    ("75pct", 0.75),
    ("90pct", 0.9),
    ("95pct", 0.95),
    ("99pct", 0.99),
    ("999pct", 0.999),
    ("9999pct", 0.9999),
];

pub(super) fn of(story: &Story<'_>) -> Value {
    let run = story.run;
    let seconds = &run.seconds;
    let mut figures = Map::new();
    let mut put = |name: &str, value: Value| figures.insert(name.to_owned(), value);
    put("workload", json!(story.command));
    put("driver", json!("orchestrator-runtime"));
    put("machine", json!(machine()));
    put("commit", json!(commit()));
    let settings = story.settings.iter();
    let settings: Map<String, Value> = settings
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    put("settings", Value::Object(settings));
    let rates = |of: fn(&Second) -> u64| -> Vec<f64> {
        let per_second = |one: &Second| round(of(one) as f64 / one.took.as_secs_f64(), 1);
        seconds.all.iter().map(per_second).collect()
    };
    put("publishRate", json!(rates(|one| one.sent)));
    put("consumeRate", json!(rates(|one| one.accounted)));
    let backlog: Vec<u64> = seconds.all.iter().map(Second::lag).collect();
    put("backlog", json!(backlog));
    for (name, quantile) in QUANTILES {
        let of = |one: &Second| one.latency_ms(quantile);
        let each: Vec<Option<f64>> = seconds.all.iter().map(of).collect();
        put(&format!("endToEndLatency{name}"), json!(each));
        let whole = ms(&seconds.latencies, quantile);
        put(&format!("aggregatedEndToEndLatency{name}"), json!(whole));
    }
    let mean = round(seconds.latencies.mean() / 1000.0, 3);
    put("aggregatedEndToEndLatencyAvg", json!(mean));
    let max = ms(&seconds.latencies, 1.0);
    put("aggregatedEndToEndLatencyMax", json!(max));
    put("latencyMeasuredFrom", json!(story.measured_from()));
    put("latencySamples", json!(seconds.latencies.len()));
    put("generatorLateness99pct", json!(ms(&seconds.late, 0.99)));
    put("generatorLatenessMax", json!(ms(&seconds.late, 1.0)));
    put("sent", json!(run.counts.sent));
    put("outputs", json!(run.counts.outputs));
    put("deadLetters", json!(run.counts.dead_letters));
    put("seconds", json!(round(run.took.as_secs_f64(), 3)));
    put("recordsPerSecond", json!(throughput(story)));
    put(
        "firstOutputSeconds",
        json!(run.first_output.map(|it| it.as_secs_f64())),
    );
    put("exitSeconds", json!(story.exit.map(|it| it.as_secs_f64())));
    let per_million = |cpu: f64| round(cpu * 1e6 / run.counts.accounted.max(1) as f64, 3);
    let program = seconds.all.iter().rev().find_map(|one| one.usage);
    put(
        "programCpuSecondsPerMillion",
        json!(program.map(|it| per_million(it.cpu_seconds))),
    );
    put(
        "brokerCpuSecondsPerMillion",
        json!(run.broker_cpu_seconds.map(per_million)),
    );
    put(
        "programPeakRssBytes",
        json!(program.map(|it| it.peak_rss_bytes)),
    );
    put("programRssGrowthBytes", json!(rss_growth(story)));
    put("audit", json!(story.verdict));
    put("complaints", json!(story.complaints));
    put("passed", json!(story.is_well()));
    Value::Object(figures)
}

fn throughput(story: &Story<'_>) -> f64 {
    let seconds = story.run.took.as_secs_f64();
    round(story.run.counts.accounted as f64 / seconds, 1)
}

/// From the median of the second tenth of the samples to that of the last: the first tenth fills buffers.
fn rss_growth(story: &Story<'_>) -> Option<i64> {
    let samples: Vec<u64> = story
        .run
        .seconds
        .all
        .iter()
        .filter_map(|one| Some(one.usage?.rss_bytes))
        .collect();
    let tenth = samples.len() / 10;
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part.get(part.len() / 2).copied()
    };
    let early = median(samples.get(tenth..2 * tenth)?)?;
    let late = median(samples.get(samples.len() - tenth..)?)?;
    Some(late.cast_signed() - early.cast_signed())
}

fn round(value: f64, decimals: i32) -> f64 {
    let factor = 10_f64.powi(decimals);
    (value * factor).round() / factor
}
