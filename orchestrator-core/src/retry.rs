//! Back-off without a clock or a random source: both are parameters. Used by `mode::decide` and by the worker.

use std::time::Duration;

/// Exponential back-off between `base` and `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first delay.
    pub base: Duration,
    /// The bound of all delays.
    pub max: Duration,
}

impl Backoff {
    /// The upper bound of the delay after `tries` failed tries (1 or more): base, 2 x base, 4 x base .. max.
    pub fn bound(&self, tries: u32) -> Duration {
        let factor = 1_u32
            .checked_shl(tries.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }

    /// Full jitter: anything from zero to the bound, so that records that failed together do not come back
    /// together. `random` lies in `0.0..1.0`.
    pub fn full_jitter(&self, tries: u32, random: f64) -> Duration {
        self.bound(tries).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Equal jitter: from half the bound to the bound, where coming back at once would only hammer what is down.
    pub fn equal_jitter(&self, tries: u32, random: f64) -> Duration {
        self.bound(tries)
            .mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(500),
        max: Duration::from_secs(30),
    };

    #[test]
    fn it_doubles_up_to_the_maximum() {
        let bounds: Vec<_> = (1..=8).map(|n| BACKOFF.bound(n).as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bound(tries in 0_u32.., random in 0.0..1.0_f64) {
            let bound = BACKOFF.bound(tries);
            prop_assert!(BACKOFF.full_jitter(tries, random) <= bound);
            let equal = BACKOFF.equal_jitter(tries, random);
            prop_assert!(equal <= bound && equal >= bound / 2);
        }
    }
}
