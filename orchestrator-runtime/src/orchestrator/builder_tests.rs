//! What can never work is refused by `build`, in so many words, before anything is opened.
#![allow(clippy::unwrap_used)]

use orchestrator_core::{Context, Output, Record, TransformError, transform_fn};

use super::*;
use crate::tracker::fake_store::FakeStore;

fn config(more: &[(&str, &str)]) -> Config {
    let base = [
        ("ORCH_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
        ("ORCH_SOURCE_TOPICS", "orders"),
        ("ORCH_TARGET_TOPIC", "enriched"),
        ("ORCH_GROUP_ID", "g"),
    ];
    let all = base.iter().chain(more);
    Config::from_map(all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))).unwrap()
}

fn builder(more: &[(&str, &str)]) -> Builder<impl Transformer + use<>> {
    Orchestrator::builder(config(more)).transformer(transform_fn(|_: &Record, _: &Context<'_>| {
        Ok::<_, TransformError>(Output::new("x"))
    }))
}

#[track_caller]
fn check_refused(built: Result<Orchestrator<impl Transformer>, BuildError>, names: &str) {
    let error = built.unwrap_err().to_string();
    assert!(error.contains(names), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
}

/// No runtime here: building opens nothing.
#[test]
fn a_pipeline_is_built_without_a_runtime_and_a_bad_ledger_is_refused() {
    assert!(builder(&[]).build().is_ok());
    assert!(
        builder(&[("ORCH_DB_URL", "sqlite://ledger.db")])
            .build()
            .is_ok()
    );
    let memory = ("ORCH_DB_URL", "sqlite::memory:?s3cret");
    check_refused(builder(&[memory]).build(), "ORCH_DB_URL");
    let odd = ("ORCH_DB_URL", "sqlite://x.db?s3cret=1");
    check_refused(builder(&[odd]).build(), "ORCH_DB_URL");
}

#[test]
fn a_store_of_ones_own_needs_a_strategy_that_writes() {
    let own =
        |strategy| builder(&[("ORCH_DB_STRATEGY", strategy)]).failure_store(FakeStore::default());
    check_refused(own("NONE").build(), "LIGHTWEIGHT");
    assert!(own("LIGHTWEIGHT").build().is_ok());
}
