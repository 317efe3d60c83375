//! What the parts cost that need no Kafka: `cargo bench -p orchestrator-runtime --bench pure_parts`.
#![allow(missing_docs, clippy::unwrap_used)]

mod hot_path;

use std::collections::HashMap;
use std::hint::black_box;
use std::pin::pin;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use orchestrator_runtime::Config;
use orchestrator_runtime::core::{
    Attempt, Context, Record, RecordBuffer, SourcePartition, Transformer, json_fn,
};

const RECORDS: usize = 16_000;

fn whole_path(c: &mut Criterion) {
    let mut group = c.benchmark_group("hot path");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.sample_size(20);
    group.bench_function("buffer, lanes, transform, decisions, units, gate", |b| {
        b.iter(|| hot_path::pass(RECORDS));
    });
    group.finish();
}

fn buffer(c: &mut Criterion) {
    let partition = SourcePartition::new("orders", 0);
    let headers = [("traceparent", Some(&b"00-a-b-01"[..])), ("x", None)];
    let mut group = c.benchmark_group("record buffer");
    group.throughput(Throughput::Elements(1_000));
    for count in [0, headers.len()] {
        group.bench_function(format!("{count} headers"), |b| {
            b.iter(|| {
                let mut buffer = RecordBuffer::default();
                for offset in 0..1_000 {
                    let headers = headers.into_iter().take(count);
                    buffer.push(offset, Some(1), Some(b"key"), Some(&[b'x'; 316]), headers);
                }
                black_box(buffer.freeze(&partition))
            });
        });
    }
    group.finish();
}

fn json(c: &mut Criterion) {
    let order = r#"{"order_id":"o-1","items":[{"sku":"s","qty":2}],"note":"nothing to say"}"#;
    let record = Record::builder("orders", 0, 0).value(order).build();
    let same = json_fn(|order: serde_json::Value, _: &Context<'_>| Ok(order));
    c.bench_function("json_fn, in and out", |b| {
        b.iter(|| {
            let cx = Context::new(&record, Attempt::new(1));
            let mut waker = std::task::Context::from_waker(std::task::Waker::noop());
            let outputs = pin!(same.transform(&record, &cx)).poll(&mut waker);
            black_box(outputs.is_ready())
        });
    });
}

fn dead_letter_key(c: &mut Criterion) {
    let record = Record::builder("orders", 3, 1_234_567).build();
    c.bench_function("dedup key", |b| b.iter(|| black_box(record.dedup_key())));
}

fn configuration(c: &mut Criterion) {
    let variables: HashMap<_, _> = [
        ("ORCH_BOOTSTRAP_SERVERS", "localhost:9092"),
        ("ORCH_SOURCE_TOPICS", "orders"),
        ("ORCH_TARGET_TOPIC", "enriched"),
        ("ORCH_GROUP_ID", "bench"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    c.bench_function("configuration", |b| {
        b.iter_batched(
            || variables.clone(),
            |variables| black_box(Config::from_map(variables).is_ok()),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(
    benches,
    whole_path,
    buffer,
    json,
    dead_letter_key,
    configuration
);
criterion_main!(benches);
