//! Lines that a transformer logs while the worker's stage runs it: each carries the dedup key of its record, however
//! the transformer is run.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use orchestrator_core::ports::Epoch;
use orchestrator_core::{
    Attempt, Context, Output, Outputs, Record, SourcePartition, TransformError, Transformer,
    transform_async_fn, transform_blocking_fn, transform_fn,
};
use tracing::dispatcher::{self, Dispatch};
use tracing::info;
use tracing_subscriber::layer::SubscriberExt;

use super::ecs;
use super::tests::{Memory, among_others, parsed};
use crate::worker::stage::{Stage, StageSettings};

/// Stands for the process's subscriber, which reaches every thread; tests have one each.
fn subscriber() -> (Dispatch, Memory) {
    among_others();
    let memory = Memory::default();
    let layer = ecs::layer(memory.clone(), "orders".into());
    (
        Dispatch::new(tracing_subscriber::registry().with(layer)),
        memory,
    )
}

/// Has records 0..4 of one partition transformed, and gives the lines' messages with their keys.
async fn lines_of<T: Transformer>(transformer: T, memory: &Memory) -> Vec<(String, String)> {
    let settings = StageSettings {
        concurrency: 4,
        timeout: Duration::from_secs(5),
        dead_letter_records: Arc::default(),
        end_the_process: Arc::default(),
    };
    let mut stage = Stage::new(Arc::new(transformer), settings);
    let records: Vec<_> = (0..4)
        .map(|offset| Record::builder("orders", 3, offset).build())
        .collect();
    let chunk = stage.chunk_records();
    for records in records.chunks(chunk) {
        let from = records[0].offset();
        let partition = SourcePartition::new("orders", 3);
        stage.start(partition, (Epoch(1), 0), from, records.to_vec(), None);
    }
    while stage.is_busy() {
        stage.done().await;
    }
    let mut lines: Vec<_> = parsed(&memory.text())
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (text("message"), text("dedupKey"))
        })
        .collect();
    lines.sort();
    lines
}

fn each(message: &str) -> Vec<(String, String)> {
    let line = |offset| (format!("{message} {offset}"), format!("orders-3-{offset}"));
    (0..4).map(line).collect()
}

#[tokio::test]
async fn lines_of_synchronous_transforms_carry_their_records_key() {
    let (subscriber, memory) = subscriber();
    let logging = move |record: &Record, _: &Context<'_>| {
        dispatcher::with_default(&subscriber, || info!("cpu {}", record.offset()));
        Ok::<_, TransformError>(Output::new("x"))
    };
    assert_eq!(lines_of(transform_fn(logging), &memory).await, each("cpu"));
}

#[tokio::test]
async fn lines_of_blocking_transforms_carry_their_records_key() {
    let (subscriber, memory) = subscriber();
    let logging = move |record: &Record, _: &Context<'_>| {
        dispatcher::with_default(&subscriber, || info!("blocking {}", record.offset()));
        Ok::<_, TransformError>(Output::new("x"))
    };
    let lines = lines_of(transform_blocking_fn(logging), &memory).await;
    assert_eq!(lines, each("blocking"));
}

/// Says so when it is dropped.
struct Leaving(i64);

impl Drop for Leaving {
    fn drop(&mut self) {
        info!("leaving {}", self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn lines_of_asynchronous_transforms_carry_their_records_key() {
    let (subscriber, memory) = subscriber();
    let _default = dispatcher::set_default(&subscriber);
    let waiting = transform_async_fn(async |record: Record, _: Attempt| {
        tokio::time::sleep(Duration::from_millis(10)).await;
        info!("async {}", record.offset());
        Ok::<_, TransformError>(Output::new("x"))
    });
    assert_eq!(lines_of(waiting, &memory).await, each("async"));
}

#[tokio::test(start_paused = true)]
async fn a_transform_that_is_given_up_on_says_its_last_words_with_its_key() {
    let (subscriber, memory) = subscriber();
    let _default = dispatcher::set_default(&subscriber);
    let hanging = transform_async_fn(async |record: Record, _: Attempt| {
        let _leaving = Leaving(record.offset());
        std::future::pending::<Result<Output, TransformError>>().await
    });
    assert_eq!(lines_of(hanging, &memory).await, each("leaving"));
}

/// Looks all records up at once.
struct Bulk;

impl Transformer for Bulk {
    async fn transform(&self, _: &Record, _: &Context<'_>) -> Result<Outputs, TransformError> {
        Ok(Outputs::default())
    }

    async fn transform_batch(
        &self,
        records: &[Record],
        _: Attempt,
    ) -> Option<Vec<Result<Outputs, TransformError>>> {
        info!("bulk");
        tokio::task::yield_now().await;
        info!("bulk");
        Some(records.iter().map(|_| Ok(Outputs::default())).collect())
    }
}

#[tokio::test]
async fn lines_of_a_bulk_transform_carry_the_first_and_the_last_key() {
    let (subscriber, memory) = subscriber();
    let _default = dispatcher::set_default(&subscriber);
    let line = ("bulk".to_owned(), "orders-3-0..orders-3-3".to_owned());
    assert_eq!(lines_of(Bulk, &memory).await, [line.clone(), line]);
}
