//! What a failed try means for its record: it is counted, and `mode::decide` is asked. Pure; called by the worker and by
//! `testing`, so that a transformer under test is judged as it will be in production.

use std::any::Any;
use std::time::{Duration, Instant};

use crate::error::{FailureClass, Stage, TransformError};
use crate::failure::Failure;
use crate::lane::{Lane, Waiting};
use crate::mode::{Policy, Tries, Verdict, decide};

/// A judged failure.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The failure with all tries so far counted.
    pub failure: Failure,
    /// Failed tries of any kind in a row.
    pub in_a_row: u32,
    /// What becomes of the record.
    pub verdict: Verdict,
}

/// Judges a try that failed with `error`; `again` is what was known of the record before it, `brake` whether the skip
/// brake bites, `random`, in `0.0..1.0`, the jitter.
pub fn judge_failure(
    policy: &Policy,
    error: &TransformError,
    again: Option<&Waiting>,
    brake: bool,
    now_ms: i64,
    random: f64,
) -> Judgement {
    let counts = u32::from(error.class() != FailureClass::Infrastructure);
    let before = again.map_or(0, |w| w.failure.attempts);
    let mut failure = Failure::of(error, before.saturating_add(counts), now_ms);
    if let Some(again) = again {
        failure.first_failed_at_ms = again.failure.first_failed_at_ms;
    }
    let in_a_row = again.map_or(0, |w| w.in_a_row).saturating_add(1);
    let tries = Tries {
        attempts: failure.attempts,
        in_a_row,
    };
    let verdict = if error.stage() == Stage::Operator {
        Verdict::Pass { dead_letter: true }
    } else {
        decide(policy, error.class(), tries, brake, random)
    };
    Judgement {
        failure,
        in_a_row,
        verdict,
    }
}

/// Whether the skip brake bites, when `failing` records have just failed transiently and `others` have not: among these,
/// all records that wait, and all that wait behind them.
pub fn brake<'a>(
    policy: &Policy,
    lanes: impl Iterator<Item = &'a Lane>,
    failing: usize,
    others: usize,
) -> bool {
    let (mut waiting, mut known) = (failing, failing + others);
    for lane in lanes {
        let (w, k) = lane.tally();
        waiting += w;
        known += k;
    }
    policy.brake_bites(waiting, known)
}

/// When a wait that begins at `now` ends; one beyond what the clock can say is a wait for ever.
pub fn due(now: Instant, after: Duration) -> Instant {
    now.checked_add(after)
        .unwrap_or(now + Duration::from_secs(1 << 30))
}

/// The failure of a transformer that panicked, given what `catch_unwind` caught.
pub fn panicked(panic: &(dyn Any + Send)) -> TransformError {
    let text = panic_text(panic);
    TransformError::permanent(format!("the transformer panicked: {text}")).at_stage(Stage::Panic)
}

/// What somebody said who panicked, given what `catch_unwind` caught.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

/// The failure of a record that has ended the process again and again, which is not transformed any more.
pub fn ends_the_process(starts: u32) -> TransformError {
    TransformError::permanent(format!(
        "the process has ended {starts} times in a row while this record was transformed, at last with no other \
         (ORCH_CRASH_QUARANTINE_AFTER)"
    ))
    .at_stage(Stage::Crash)
}

/// The failure of a record that the operator listed in `ORCH_DEAD_LETTER_RECORDS`, which is not transformed at all.
pub fn listed_by_operator() -> TransformError {
    TransformError::permanent("listed in ORCH_DEAD_LETTER_RECORDS").at_stage(Stage::Operator)
}
