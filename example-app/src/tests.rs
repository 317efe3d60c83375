//! The transformer without Kafka: against the test kit's oracle, and each fault by the runtime's own decisions.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use orchestrator_runtime::core::testing::{self, Outcome, Tested, Trial};
use orchestrator_runtime::core::{HoldReason, Policy, Record, Stage, json_fn};
use orchestrator_testkit::orders::{Orders, expected_output};

use super::*;

const ORDER: &str = r#"{"order_id":"o-1","customer_id":"c-1","currency":"eur","placed_at_ms":1,"items":[{"sku":"s","qty":2,"unit_price_cents":10000}],"note":"n"}"#;

fn record(offset: i64, value: &str) -> Record {
    let record = Record::builder("orders", 0, offset).key("c-1");
    record.value(value).build()
}

/// One sound order with this fault, tried in ATOMIC, and a sound one behind it.
fn faulty(fault: &str) -> Tested {
    let with_fault = Record::builder("orders", 0, 0).key("c-1").value(ORDER);
    let records = [
        with_fault.header("x-fault", fault).build(),
        record(1, ORDER),
    ];
    testing::run(&json_fn(enrich), records).swap_remove(0)
}

#[test]
fn an_order_is_enriched() {
    let tested = testing::run(&json_fn(enrich), [record(0, ORDER)]);
    let expected = r#"{"order_id":"o-1","customer_id":"c-1","currency":"EUR","placed_at_ms":1,"items":[{"sku":"s","qty":2,"unit_price_cents":10000}],"note":"n","item_count":2,"total_cents":20000,"tier":"plus"}"#;
    assert_eq!(
        std::str::from_utf8(tested[0].value().unwrap()),
        Ok(expected)
    );
    let output = &tested[0].outputs().unwrap().as_slice()[0];
    assert_eq!(output.key_given(&tested[0].record), Some(b"c-1".as_slice()));
    assert!(output.headers().is_empty() && output.topic().is_none());
}

#[test]
fn the_oracle_agrees() {
    let orders: Vec<_> = Orders::new(3).poison(0.2).range(0..2_000).collect();
    let records = orders
        .iter()
        .zip(0..)
        .map(|(order, n)| record(n, &order.value));
    let tested = Trial::of(Policy::skip_and_log()).run(&json_fn(enrich), records);
    for (order, tested) in orders.iter().zip(tested) {
        let expected = expected_output(order.value.as_bytes());
        assert_eq!(
            tested.value(),
            expected.as_ref().map(String::as_bytes),
            "{order:?}"
        );
        let passed = matches!(tested.outcome, Outcome::Passed { .. });
        assert_eq!((passed, tested.attempts), (order.poison.is_some(), 1));
    }
}

#[test]
fn what_is_no_order_is_permanent() {
    for (value, stage) in [
        ("", Stage::Decode),
        ("[]", Stage::Decode),
        (&ORDER[..90], Stage::Decode),
        (&ORDER.replace("note", "nota"), Stage::Decode),
        (&ORDER.replace(":2,", ":-2,"), Stage::Decode),
        (&ORDER.replace(":2,", ":0,"), Stage::Transform),
        (
            &ORDER.replace(":2,", ":18446744073709551615,"),
            Stage::Transform,
        ),
    ] {
        let tested = testing::run(&json_fn(enrich), [record(0, value)]).swap_remove(0);
        let failure = tested.failure().unwrap();
        assert_eq!((failure.stage, tested.attempts), (stage, 1), "{value}");
        assert!(matches!(
            tested.outcome,
            Outcome::Held {
                reason: HoldReason::Poison,
                ..
            }
        ));
    }
}

#[test]
fn faults_that_pass() {
    assert_eq!(faulty("transient:2").attempts, 3);
    assert!(faulty("transient:2").value().is_some());
    assert!(faulty("oversize:5000").value().unwrap().len() > 5_000);
    let started = Instant::now();
    assert!(faulty("hang:20").value().is_some());
    assert!(started.elapsed() >= Duration::from_millis(20));
    // The second record takes the time that the first one's infrastructure is down.
    let fault = |offset, fault: &str| {
        let record = Record::builder("orders", 1, offset).value(ORDER);
        record.header("x-fault", fault).build()
    };
    let records = [fault(0, "infrastructure:20"), fault(1, "hang:25")];
    let tested = testing::run(&json_fn(enrich), records);
    assert!(tested[0].value().is_some() && tested[0].waited > Duration::ZERO);
}

#[test]
fn faults_that_stay() {
    for (fault, attempts, reason) in [
        ("permanent", 1, HoldReason::Poison),
        ("transient:3", 3, HoldReason::Poison),
        ("infrastructure:86400000", 0, HoldReason::Infrastructure),
        ("panic", 1, HoldReason::Poison),
        ("hang:soon", 1, HoldReason::Poison),
        ("unheard-of", 1, HoldReason::Poison),
    ] {
        let tested = faulty(fault);
        assert_eq!(tested.attempts, attempts, "{fault}");
        let Outcome::Held { reason: found, .. } = tested.outcome else {
            panic!("{fault}: {:?}", tested.outcome);
        };
        assert_eq!(found, reason, "{fault}");
    }
}
