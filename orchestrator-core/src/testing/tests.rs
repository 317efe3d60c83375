//! The trial itself: each outcome, virtual time, and that it blocks on nothing but the transformer.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::error::{FailureClass, Stage};
use crate::mode::AtomicOnPoison;
use crate::output::Output;
use crate::transform::{Attempt, Context, transform_async_fn, transform_fn};
use crate::{SourcePartition, TransformError};

/// A record whose value is an instruction.
fn record(partition: i32, offset: i64, value: &str) -> Record {
    Record::builder("t", partition, offset).value(value).build()
}

/// Obeys: `ok`, `no`, `panic`, `down`, or how often to fail transiently.
fn obey(record: &Record, cx: &Context<'_>) -> Result<Output, TransformError> {
    match std::str::from_utf8(record.value().unwrap_or_default())? {
        "ok" => Ok(Output::new("done")),
        "no" => Err(TransformError::permanent("no")),
        "down" => Err(TransformError::infrastructure("down")),
        "panic" => panic!("told to"),
        times if cx.attempt() <= times.parse()? => Err(TransformError::transient("not yet")),
        _ => Ok(Output::new("done")),
    }
}

fn trial(policy: Policy, values: &[&str]) -> Vec<Tested> {
    let records = values.iter().zip(0..).map(|(value, n)| record(0, n, value));
    Trial::of(policy).run(&transform_fn(obey), records)
}

/// An outcome in a few words.
fn word(tested: &Tested) -> String {
    let attempts = tested.attempts;
    match &tested.outcome {
        Outcome::Outputs(outputs) => format!("{} output, {attempts}", outputs.len()),
        Outcome::Passed { dead_letter, .. } => format!("passed {dead_letter}, {attempts}"),
        Outcome::Held { reason, .. } => format!("held {reason}, {attempts}"),
        Outcome::Behind { offset } => format!("behind {offset}"),
        Outcome::Stopped { .. } => format!("stopped, {attempts}"),
    }
}

#[track_caller]
fn check(policy: Policy, values: &[&str], expected: &[&str]) {
    let tested = trial(policy, values);
    assert_eq!(tested.iter().map(word).collect::<Vec<_>>(), expected);
}

#[test]
fn atomic_holds_at_poison() {
    let values = ["ok", "2", "3", "ok"];
    let outcomes = ["1 output, 1", "1 output, 3", "held poison, 3", "behind 2"];
    check(Policy::atomic(), &values, &outcomes);
    check(
        Policy::atomic(),
        &["panic", "ok"],
        &["held poison, 1", "behind 0"],
    );
}

#[test]
fn atomic_with_dead_letters_and_stop() {
    let mut policy = Policy::atomic();
    policy.on_poison = AtomicOnPoison::Dlq;
    let values = ["no", "ok", "9"];
    let outcomes = ["passed true, 1", "1 output, 1", "passed true, 3"];
    check(policy.clone(), &values, &outcomes);
    policy.on_poison = AtomicOnPoison::Stop;
    check(
        policy,
        &["ok", "no", "ok"],
        &["1 output, 1", "stopped, 1", "behind 1"],
    );
}

#[test]
fn skip_and_log_passes_what_fails() {
    let mut policy = Policy::skip_and_log();
    check(
        policy.clone(),
        &["no", "3", "ok"],
        &["passed false, 1", "passed false, 3", "1 output, 1"],
    );
    policy.dead_letters = true;
    check(policy, &["no", "ok"], &["passed true, 1", "1 output, 1"]);
}

#[test]
fn the_brake_skips_nothing_when_most_fail() {
    let values: Vec<&str> = std::iter::repeat_n("9", 20).collect();
    let tested = trial(Policy::skip_and_log(), &values);
    assert_eq!(word(&tested[0]).split(',').next(), Some("held skip_brake"));
    let behind = |tested: &Tested| matches!(tested.outcome, Outcome::Behind { offset: 0 });
    assert!(tested[1..].iter().all(behind));
}

#[test]
fn other_partitions_flow() {
    let records = [
        record(0, 5, "no"),
        record(1, 0, "ok"),
        record(0, 9, "ok"),
        record(1, 3, "1"),
    ];
    let tested = run(&transform_fn(obey), records);
    let words: Vec<_> = tested.iter().map(word).collect();
    assert_eq!(
        words,
        ["held poison, 1", "1 output, 1", "behind 5", "1 output, 2"]
    );
}

#[test]
fn infrastructure_is_waited_for_without_using_attempts() {
    let calls = AtomicU32::new(0);
    let back_after_five = move |_: &Record, cx: &Context<'_>| {
        assert_eq!(cx.attempt(), 1);
        match calls.fetch_add(1, Ordering::Relaxed) {
            0..5 => Err(TransformError::infrastructure("down")),
            _ => Ok(Output::new("up again")),
        }
    };
    let tested = run(&transform_fn(back_after_five), [record(0, 0, "")]);
    assert_eq!(word(&tested[0]), "1 output, 1");
    // 0.5 + 1 + 2 + 4 + 8 s, the longest that jitter allows.
    assert_eq!(tested[0].waited, Duration::from_millis(15_500));
    check(
        Policy::atomic(),
        &["down", "ok"],
        &["held infrastructure, 0", "behind 0"],
    );
}

#[test]
fn back_off_takes_no_time_and_follows_the_policy() {
    let mut policy = Policy::atomic();
    policy.max_attempts = NonZeroU32::new(5).unwrap();
    let tested = trial(policy.clone(), &["4"]);
    assert_eq!(
        (tested[0].attempts, tested[0].waited),
        (5, Duration::from_millis(7_500))
    );
    policy.backoff.base = Duration::from_secs(40);
    policy.backoff.max = Duration::from_secs(3_600);
    let impatient = Trial::of(policy).patience(Duration::from_secs(39));
    let tested = impatient.run(&transform_fn(obey), [record(0, 0, "1")]);
    assert_eq!(word(&tested[0]), "held retry_backoff, 1");
}

#[test]
fn the_failure_tells_what_happened() {
    let tested = trial(Policy::skip_and_log(), &["panic"]);
    let failure = tested[0].failure().unwrap();
    assert_eq!(
        (failure.class, failure.stage),
        (FailureClass::Permanent, Stage::Panic)
    );
    assert_eq!(failure.message, "the transformer panicked: told to");
    assert_eq!(tested[0].value(), None);
}

#[test]
fn an_output_must_fit_into_its_topic() {
    let weighs = |record: &Record, _: &Context<'_>| {
        let bytes = std::str::from_utf8(record.value().unwrap_or_default())?.parse()?;
        Ok(Output::new(vec![0; bytes]))
    };
    let words = |trial: Trial| {
        let records = [record(0, 0, "1000000"), record(1, 0, "1050000")];
        let tested = trial.run(&transform_fn(weighs), records);
        tested.iter().map(word).collect::<Vec<_>>()
    };
    let trial = Trial::of(Policy::atomic());
    assert_eq!(words(trial.clone()), ["1 output, 1", "held poison, 1"]);
    let wide = trial.max_message_bytes(2_000_000);
    assert_eq!(words(wide), ["1 output, 1", "1 output, 1"]);
}

#[test]
fn what_the_operator_listed_is_not_transformed() {
    let mut policy = Policy::atomic();
    policy
        .dead_letter_records
        .insert(SourcePartition::new("t", 0).at(1));
    check(
        policy,
        &["ok", "panic", "ok"],
        &["1 output, 1", "passed true, 1", "1 output, 1"],
    );
}

#[test]
fn asynchronous_transformers_are_driven() {
    // Wakes itself from another thread: nothing polls in a loop.
    let transformer = transform_async_fn(|record: Record, attempt: Attempt| async move {
        let (mut started, thread) = (false, Mutex::new(None));
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut started, true) {
                return std::task::Poll::Ready(());
            }
            let waker = cx.waker().clone();
            *thread.lock().unwrap() = Some(std::thread::spawn(move || waker.wake()));
            std::task::Poll::Pending
        })
        .await;
        if attempt.number < 2 {
            return Err(TransformError::transient("first"));
        }
        Ok(Output::new(record.value().unwrap_or_default().to_vec()))
    });
    let tested = run(&transformer, [record(0, 0, "a"), record(0, 1, "b")]);
    assert_eq!(tested[1].value(), Some(b"b".as_slice()));
    assert_eq!(tested[1].attempts, 2);
}

struct Bulk(BTreeMap<&'static str, u32>);

impl Transformer for Bulk {
    async fn transform(&self, _: &Record, _: &Context<'_>) -> Result<Outputs, TransformError> {
        Err(TransformError::permanent("one by one"))
    }

    async fn transform_batch(
        &self,
        records: &[Record],
        _: Attempt,
    ) -> Option<Vec<Result<Outputs, TransformError>>> {
        let value = |r: &Record| String::from_utf8(r.value()?.to_vec()).ok();
        let look_up = |r: &Record| {
            let found = value(r).and_then(|value| self.0.get(value.as_str()).copied());
            found
                .map(|n| Output::new(n.to_string()).into())
                .ok_or(TransformError::permanent("unknown"))
        };
        Some(records.iter().map(look_up).collect())
    }
}

#[test]
fn bulk_look_ups_are_used() {
    let bulk = Bulk(BTreeMap::from([("one", 1), ("two", 2)]));
    let trial = Trial::of(Policy::skip_and_log());
    let tested = trial.run(
        &bulk,
        [
            record(0, 0, "one"),
            record(0, 1, "three"),
            record(0, 2, "two"),
        ],
    );
    assert_eq!(tested[2].value(), Some(b"2".as_slice()));
    assert_eq!(tested[1].failure().unwrap().message, "unknown");
}
