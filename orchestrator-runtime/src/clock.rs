//! The clock that dates failures and the rows of the ledger. It follows the wall clock forward, and never goes back while
//! the process lives: by the time of an assignment and of a commit the ledger tells what is older, and a wall clock that is
//! set back would make all that this process writes older than what it has written.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use orchestrator_core::ports::SessionFailure;

/// The time in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    now_us() / 1_000
}

/// The time in microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    static CLOCK: Clock = Clock::new();
    let running = STARTED.get_or_init(Instant::now).elapsed();
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let us = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    CLOCK.read(us(wall), us(running))
}

/// How far a wall clock has been ahead of a monotonic one, at the most.
struct Clock(AtomicI64);

impl Clock {
    const fn new() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }

    fn read(&self, wall: i64, monotonic: i64) -> i64 {
        let ahead = wall - monotonic;
        self.0.fetch_max(ahead, Relaxed).max(ahead) + monotonic
    }
}

/// A wall clock that is looked at again and again, to see whether it was set back.
#[derive(Debug)]
pub(crate) struct WallClock {
    looked: Instant,
    showed: SystemTime,
}

impl WallClock {
    /// Steps that are less do little harm, and reading two clocks takes its time.
    const STEP: Duration = Duration::from_secs(1);
    /// How often it is looked at while nothing else is done.
    const EVERY: Duration = Duration::from_millis(100);

    pub(crate) fn now() -> Self {
        Self {
            looked: Instant::now(),
            showed: SystemTime::now(),
        }
    }

    /// Fails if it was set back since it was looked at before. librdkafka's threads wait until a time of the wall clock: they
    /// would sleep for as long, unless something wakes them (its issue #2145), and above all those that look for a broker
    /// which is away. New ones do not.
    ///
    /// The ledger's clock is read, too: all processes that live through a step forward are to be ahead by it when the clock
    /// is set back. Otherwise whoever takes a partition over could be behind its earlier owner.
    pub(crate) fn look(&mut self) -> Result<(), SessionFailure> {
        now_us();
        let before = std::mem::replace(self, Self::now());
        match before.set_back(self) {
            None => Ok(()),
            Some(step) => Err(SessionFailure::Broken(format!(
                "the wall clock was set back by {} s, and librdkafka would wait for as long",
                step.as_secs()
            ))),
        }
    }

    /// Waits until it was set back.
    ///
    /// Cancel safety: nothing is lost.
    pub(crate) async fn broken(&mut self) -> SessionFailure {
        loop {
            tokio::time::sleep(Self::EVERY).await;
            if let Err(failure) = self.look() {
                return failure;
            }
        }
    }

    fn set_back(&self, later: &Self) -> Option<Duration> {
        let expected = self.showed + (later.looked - self.looked);
        let step = expected.duration_since(later.showed).ok()?;
        (step >= Self::STEP).then_some(step)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_is_followed_forward_and_never_back() {
        let clock = Clock::new();
        assert_eq!(clock.read(1_000, 0), 1_000);
        assert_eq!(clock.read(1_005, 5), 1_005);
        // Set forward by an hour, and back to what is right: it goes on from where it was.
        assert_eq!(clock.read(4_610, 10), 4_610);
        assert_eq!(clock.read(1_020, 20), 4_620);
        assert_eq!(clock.read(1_900, 900), 5_500);
    }

    #[test]
    fn a_step_back_is_noticed_and_a_step_forward_is_not() {
        let (before, hour) = (WallClock::now(), Duration::from_secs(3_600));
        let later = |wall: SystemTime| WallClock {
            looked: before.looked + hour,
            showed: wall,
        };
        let right = before.showed + hour;
        assert_eq!(before.set_back(&later(right)), None);
        assert_eq!(before.set_back(&later(right + hour)), None);
        let little = Duration::from_millis(900);
        assert_eq!(before.set_back(&later(right - little)), None);
        assert_eq!(before.set_back(&later(right - hour)), Some(hour));
    }

    #[test]
    fn it_is_the_time_of_day() {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let off = now_ms() - i64::try_from(wall.as_millis()).unwrap();
        assert!(off.abs() < 60_000, "{off} ms");
    }
}
