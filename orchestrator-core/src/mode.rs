//! The two failure modes and the one decision that is made by them: what becomes of a record that failed.
//! Pure; called by the worker and by `testing::run`.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::error::FailureClass;
use crate::hold::HoldReason;
use crate::record::SourcePosition;
use crate::retry::Backoff;

/// What happens to records that cannot be transformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FailureMode {
    /// No record is passed without its outputs (or, if so configured, its dead letter).
    #[default]
    Atomic,
    /// A record that fails for good is recorded and passed.
    SkipAndLog,
}

/// What ATOMIC does with poison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AtomicOnPoison {
    /// Hold the partition and try again with growing back-off.
    #[default]
    Block,
    /// Write a dead letter in the same transaction and go on.
    Dlq,
    /// End the run.
    Stop,
}

/// At least so many records must be in question before the skip brake can bite.
pub const SKIP_BRAKE_MIN_RECORDS: usize = 20;

/// The settings that decisions depend on.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The mode.
    pub mode: FailureMode,
    /// What ATOMIC does with poison.
    pub on_poison: AtomicOnPoison,
    /// How many tries a transient failure gets.
    pub max_attempts: NonZeroU32,
    /// The back-off between tries.
    pub backoff: Backoff,
    /// Above this share of transient failures at once, nothing is skipped.
    pub skip_max_percent: u8,
    /// Whether a dead-letter topic is configured.
    pub dead_letters: bool,
    /// Records the operator wants dead-lettered, whatever they would do.
    pub dead_letter_records: BTreeSet<SourcePosition>,
}

impl Policy {
    /// ATOMIC with its defaults: 3 attempts, 500 ms back-off up to 30 s, no dead letters.
    pub fn atomic() -> Self {
        Self {
            mode: FailureMode::Atomic,
            on_poison: AtomicOnPoison::Block,
            max_attempts: NonZeroU32::MIN.saturating_add(2),
            backoff: Backoff {
                base: Duration::from_millis(500),
                max: Duration::from_secs(30),
            },
            skip_max_percent: 50,
            dead_letters: false,
            dead_letter_records: BTreeSet::new(),
        }
    }

    /// SKIP_AND_LOG with the same defaults.
    pub fn skip_and_log() -> Self {
        Self {
            mode: FailureMode::SkipAndLog,
            ..Self::atomic()
        }
    }

    /// Whether so many transient failures at once mean that it is the infrastructure that is sick.
    ///
    /// `waiting` records wait after a transient failure, of `known` whose fate is being decided or waits behind
    /// theirs.
    pub fn brake_bites(&self, waiting: usize, known: usize) -> bool {
        known >= SKIP_BRAKE_MIN_RECORDS
            && waiting * 100 > known * usize::from(self.skip_max_percent)
    }
}

/// How often a record has been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Tries that count against `ORCH_MAX_ATTEMPTS`: all but those that failed for infrastructure.
    pub attempts: u32,
    /// Failed tries of any kind in a row, which the back-off grows with.
    pub in_a_row: u32,
}

/// What becomes of a record that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is recorded in the ledger and passed, with a dead letter in the same transaction if so said.
    Pass {
        /// Whether a dead letter is written.
        dead_letter: bool,
    },
    /// Its partition is held from here, and it is tried again after the delay.
    Hold {
        /// Why.
        reason: HoldReason,
        /// How long until the next try.
        after: Duration,
    },
    /// The run ends; the record is not passed.
    Stop,
}

/// Decides about a record that failed with `class` after `tries`. `brake` says whether the skip brake bites now;
/// `random`, in `0.0..1.0`, is the jitter.
pub fn decide(
    policy: &Policy,
    class: FailureClass,
    tries: Tries,
    brake: bool,
    random: f64,
) -> Verdict {
    let hold = |reason, tries: u32| Verdict::Hold {
        reason,
        after: policy.backoff.equal_jitter(tries, random),
    };
    match class {
        FailureClass::Infrastructure => {
            return hold(HoldReason::Infrastructure, tries.in_a_row);
        }
        FailureClass::Transient if tries.attempts < policy.max_attempts.get() => {
            return Verdict::Hold {
                reason: HoldReason::RetryBackoff,
                after: policy.backoff.full_jitter(tries.in_a_row, random),
            };
        }
        FailureClass::Transient | FailureClass::Permanent => {}
    }
    // From here on the record is poison.
    match (policy.mode, policy.on_poison) {
        (FailureMode::SkipAndLog, _) if brake && class == FailureClass::Transient => {
            hold(HoldReason::SkipBrake, tries.in_a_row)
        }
        (FailureMode::SkipAndLog, _) => Verdict::Pass {
            dead_letter: policy.dead_letters,
        },
        (FailureMode::Atomic, AtomicOnPoison::Block) => hold(HoldReason::Poison, tries.in_a_row),
        (FailureMode::Atomic, AtomicOnPoison::Dlq) => Verdict::Pass { dead_letter: true },
        (FailureMode::Atomic, AtomicOnPoison::Stop) => Verdict::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureClass::{Infrastructure, Permanent, Transient};
    use proptest::prelude::*;

    const LAST: u32 = 3;

    fn kind(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Pass { dead_letter: true } => "dead-letter",
            Verdict::Pass { dead_letter: false } => "pass",
            Verdict::Hold { reason, .. } => reason.as_str(),
            Verdict::Stop => "stop",
        }
    }

    #[track_caller]
    fn check(policy: &Policy, class: FailureClass, attempts: u32, brake: bool, expected: &str) {
        let tries = Tries {
            attempts,
            in_a_row: attempts.max(1),
        };
        assert_eq!(kind(decide(policy, class, tries, brake, 0.5)), expected);
    }

    #[test]
    fn atomic_never_passes_without_a_dead_letter() {
        let mut policy = Policy::atomic();
        check(&policy, Transient, 1, false, "retry_backoff");
        check(&policy, Transient, LAST - 1, false, "retry_backoff");
        check(&policy, Transient, LAST, false, "poison");
        check(&policy, Permanent, 1, false, "poison");
        check(&policy, Infrastructure, 0, false, "infrastructure");
        policy.on_poison = AtomicOnPoison::Dlq;
        check(&policy, Permanent, 1, false, "dead-letter");
        check(&policy, Transient, LAST, true, "dead-letter");
        policy.on_poison = AtomicOnPoison::Stop;
        check(&policy, Permanent, 1, false, "stop");
        check(&policy, Transient, 1, false, "retry_backoff");
    }

    #[test]
    fn skip_and_log_passes_what_failed_for_good() {
        let mut policy = Policy::skip_and_log();
        check(&policy, Transient, 1, false, "retry_backoff");
        check(&policy, Transient, LAST, false, "pass");
        check(&policy, Permanent, 1, false, "pass");
        check(&policy, Infrastructure, 7, false, "infrastructure");
        policy.dead_letters = true;
        check(&policy, Permanent, 1, false, "dead-letter");
    }

    #[test]
    fn the_brake_holds_transient_failures_only() {
        let policy = Policy::skip_and_log();
        check(&policy, Transient, LAST, true, "skip_brake");
        check(&policy, Permanent, 1, true, "pass");
    }

    #[test]
    fn the_brake_bites_above_half_of_twenty() {
        let policy = Policy::skip_and_log();
        for (waiting, known, bites) in [
            (19, 19, false),
            (10, 20, false),
            (11, 20, true),
            (500, 1000, false),
            (501, 1000, true),
            (0, 0, false),
        ] {
            assert_eq!(
                policy.brake_bites(waiting, known),
                bites,
                "{waiting}/{known}"
            );
        }
    }

    proptest! {
        #[test]
        fn infrastructure_uses_no_attempt_and_is_never_poison(attempts in 0_u32..100, in_a_row in 1_u32.., random in 0.0..1.0_f64) {
            for policy in [Policy::atomic(), Policy::skip_and_log()] {
                let verdict = decide(&policy, Infrastructure, Tries { attempts, in_a_row }, true, random);
                let held = matches!(verdict, Verdict::Hold { reason: HoldReason::Infrastructure, after } if after <= policy.backoff.max);
                prop_assert!(held);
            }
        }
    }
}
