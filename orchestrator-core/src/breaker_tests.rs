//! Tests of the breaker: scripts as tables, and any history of calls by proptest.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const SETTINGS: BreakerSettings = BreakerSettings {
    failure_threshold: 3,
    open_for: Duration::from_millis(1000),
    slow_after: Duration::from_millis(100),
    probe_deadline: Duration::from_millis(500),
};

/// One step of a script.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A call that takes so many milliseconds and ends so.
    Call(u64, CallOutcome),
    /// A call that must be refused.
    Refused,
    /// Time passes.
    Wait(u64),
    /// A call is begun and never reported.
    Lost,
    Force(Option<Forced>),
    ProbeNow,
    /// The state must be this.
    Is(CircuitState),
}
use CallOutcome::{DataError, Failed, Ok as Fine};
use CircuitState::{Closed, HalfOpen, Open};
use Step::*;

#[track_caller]
fn check(steps: &[Step]) {
    let mut now = Instant::now();
    let mut breaker = Breaker::new(SETTINGS);
    for (at, step) in steps.iter().enumerate() {
        match *step {
            Call(ms, outcome) => {
                let permit = breaker.try_call(now);
                assert!(permit.is_some(), "step {at}: refused");
                now += Duration::from_millis(ms);
                breaker.report(permit.unwrap(), outcome, now);
            }
            Lost => {
                let permit = breaker.try_call(now);
                assert!(permit.is_some(), "step {at}: refused");
            }
            Refused => assert!(breaker.try_call(now).is_none(), "step {at}: let through"),
            Wait(ms) => now += Duration::from_millis(ms),
            Force(forced) => breaker.force(forced, now),
            ProbeNow => breaker.probe_now(now),
            Is(state) => assert_eq!(breaker.state(now), state, "step {at}"),
        }
    }
}

const FAIL: Step = Call(1, Failed);
const FINE: Step = Call(1, Fine);

#[test]
fn opens_after_failures_in_a_row_only() {
    check(&[
        FAIL,
        FAIL,
        FINE,
        FAIL,
        FAIL,
        Is(Closed),
        FAIL,
        Is(Open),
        Refused,
    ]);
}

#[test]
fn slow_calls_count_though_they_worked() {
    check(&[
        Call(101, Fine),
        Call(101, DataError),
        Call(101, Fine),
        Is(Open),
    ]);
    check(&[
        Call(100, Fine),
        Call(100, Fine),
        Call(100, Fine),
        Is(Closed),
    ]);
}

#[test]
fn data_errors_never_count() {
    check(&[Call(1, DataError); 20]);
    check(&[FAIL, FAIL, Call(1, DataError), FAIL, FAIL, Is(Closed)]);
}

#[test]
fn one_probe_decides() {
    let opened = [FAIL, FAIL, FAIL, Wait(999), Refused, Wait(1), Is(HalfOpen)];
    check(&[&opened[..], &[FINE, Is(Closed), FAIL, FAIL, Is(Closed)]].concat());
    check(
        &[
            &opened[..],
            &[FAIL, Is(Open), Refused, Wait(1000), FINE, Is(Closed)],
        ]
        .concat(),
    );
    check(&[&opened[..], &[Call(1, DataError), Is(Closed)]].concat());
    check(&[&opened[..], &[Lost, Refused, Is(HalfOpen), Refused]].concat());
}

#[test]
fn the_probe_has_its_own_deadline() {
    let opened = [FAIL, FAIL, FAIL, Wait(1000)];
    check(&[&opened[..], &[Call(500, Fine), Is(Closed)]].concat());
    check(&[&opened[..], &[Call(501, Fine), Is(Open)]].concat());
    // One that never comes back failed at its deadline: the next is due `open_for` later.
    check(
        &[
            &opened[..],
            &[
                Lost,
                Wait(1499),
                Refused,
                Is(Open),
                Wait(1),
                Is(HalfOpen),
                FINE,
                Is(Closed),
            ],
        ]
        .concat(),
    );
}

#[test]
fn forced_states_hold_whatever_calls_bring() {
    check(&[
        Force(Some(Forced::Open)),
        Wait(99_999),
        Refused,
        Is(Open),
        Force(None),
        Is(HalfOpen),
        Lost,
        Refused,
    ]);
    check(&[
        Force(Some(Forced::Closed)),
        FAIL,
        FAIL,
        FAIL,
        FAIL,
        Is(Closed),
        Force(None),
        FAIL,
        FAIL,
        Is(Closed),
    ]);
    check(&[
        FAIL,
        FAIL,
        FAIL,
        Force(Some(Forced::Closed)),
        FINE,
        Force(None),
        Is(Closed),
    ]);
}

#[test]
fn a_last_try_need_not_wait() {
    check(&[
        FAIL,
        FAIL,
        FAIL,
        Refused,
        ProbeNow,
        FAIL,
        Refused,
        ProbeNow,
        FINE,
        Is(Closed),
    ]);
    check(&[FAIL, FAIL, FAIL, ProbeNow, Lost, ProbeNow, Refused]);
}

#[test]
fn late_outcomes_of_an_earlier_state_say_nothing() {
    let now = Instant::now();
    let mut breaker = Breaker::new(SETTINGS);
    let early: Vec<_> = (0..8).map(|_| breaker.try_call(now).unwrap()).collect();
    let mut early = early.into_iter();
    for permit in early.by_ref().take(3) {
        breaker.report(permit, Failed, now);
    }
    assert_eq!(breaker.state(now), Open);
    breaker.report(early.next().unwrap(), Fine, now);
    assert_eq!(breaker.state(now), Open);
    let later = now + SETTINGS.open_for;
    let probe = breaker.try_call(later).unwrap();
    breaker.report(early.next().unwrap(), Failed, later);
    assert_eq!(breaker.state(later), HalfOpen);
    breaker.report(probe, Fine, later);
    for permit in early {
        breaker.report(permit, Failed, later);
    }
    assert_eq!(breaker.state(later), Closed);
}

#[test]
fn calls_that_fail_together_count_once() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new(SETTINGS);
    for round in 1..=SETTINGS.failure_threshold {
        let together: Vec<_> = (0..8).map(|_| breaker.try_call(now).unwrap()).collect();
        for permit in together {
            now += Duration::from_millis(1);
            breaker.report(permit, Failed, now);
        }
        let state = if round == 3 { Open } else { Closed };
        assert_eq!(breaker.state(now), state, "round {round}");
    }
}

#[derive(Clone, Debug)]
enum Action {
    Begin,
    End { which: usize, outcome: CallOutcome },
    Wait(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let outcome = prop_oneof![Just(Fine), Just(DataError), Just(Failed), Just(Failed)];
    prop_oneof![
        3 => Just(Action::Begin),
        3 => (0..8usize, outcome).prop_map(|(which, outcome)| Action::End { which, outcome }),
        2 => (0..1500u64).prop_map(Action::Wait),
    ]
}

proptest! {
    /// Whatever happens, never two probes at a time, a refused call always knows when to come back, and the
    /// circuit is never stuck: after a quiet time one good call closes it.
    #[test]
    fn any_history(actions in prop::collection::vec(action(), 0..200)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        let mut calls: Vec<Permit> = Vec::new();
        for action in actions {
            match action {
                Action::Wait(ms) => now += Duration::from_millis(ms),
                Action::Begin => match breaker.try_call(now) {
                    Some(permit) => {
                        if permit.deadline.is_some() {
                            prop_assert!(calls.iter().all(|call| call.deadline.is_none_or(|until| until < now)));
                        }
                        calls.push(permit);
                    }
                    None => {
                        prop_assert_ne!(breaker.state(now), Closed);
                        prop_assert!(breaker.retry_at().unwrap() > now);
                    }
                },
                Action::End { which, outcome } if !calls.is_empty() => {
                    let permit = calls.swap_remove(which % calls.len());
                    breaker.report(permit, outcome, now);
                }
                Action::End { .. } => {}
            }
        }
        now = breaker.retry_at().unwrap_or(now).max(now);
        let permit = breaker.try_call(now);
        prop_assert!(permit.is_some());
        breaker.report(permit.unwrap(), Fine, now);
        prop_assert_eq!(breaker.state(now), Closed);
    }
}
