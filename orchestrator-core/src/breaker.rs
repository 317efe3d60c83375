//! The circuit breaker, without a clock: time is a parameter. The runtime asks it before every statement and
//! reports every outcome. It must never wait, count data errors, or let more than one probe through at a time.

use std::time::{Duration, Instant};

/// When the circuit opens, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failed calls in a row that open it; 0 counts as 1. Calls that were under way together when one of them failed
    /// count once: they may have failed for one reason, a disk that paused say.
    pub failure_threshold: u32,
    /// How long it stays open before a probe.
    pub open_for: Duration,
    /// A call that took longer failed, whatever it returned.
    pub slow_after: Duration,
    /// How long the probe may take; its own deadline, since a database that has just come back is slow at first.
    pub probe_deadline: Duration,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It worked.
    Ok,
    /// It was refused for what it asked: an answer like any other, which never counts against the callee.
    DataError,
    /// It failed, timed out, or was given up.
    Failed,
}

/// What the circuit does with the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// Lets calls through.
    Closed,
    /// Lets no call through.
    Open,
    /// Lets one probe through, or has done so and waits for its outcome.
    HalfOpen,
}

impl CircuitState {
    /// The name used in health and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// A state kept by order of an operator or a test, whatever calls bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// Every call is let through.
    Closed,
    /// No call is let through.
    Open,
}

/// Permission for one call, handed back with its outcome by [`Breaker::report`].
#[derive(Debug)]
#[must_use = "report its outcome"]
pub struct Permit {
    /// The state's number when the call began: outcomes of calls of an earlier state say nothing about this one.
    epoch: u64,
    started: Instant,
    deadline: Option<Instant>,
}

impl Permit {
    /// Until when the call may take, if it is the probe.
    pub fn probe_deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

/// A circuit breaker; see [`BreakerSettings`].
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
    forced: Option<Forced>,
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed {
        failures: u32,
        /// When the last of them was counted.
        last: Option<Instant>,
    },
    Open {
        until: Instant,
    },
    Probing {
        until: Instant,
    },
}

impl State {
    const CLOSED: Self = Self::Closed {
        failures: 0,
        last: None,
    };
}

impl Breaker {
    /// A closed circuit.
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            state: State::CLOSED,
            forced: None,
            epoch: 0,
        }
    }

    /// Asks for one call. `None`: not now; see [`retry_at`](Self::retry_at).
    pub fn try_call(&mut self, now: Instant) -> Option<Permit> {
        match self.forced {
            Some(Forced::Open) => return None,
            Some(Forced::Closed) => return Some(self.permit(now, None)),
            None => self.tick(now),
        }
        match self.state {
            State::Closed { .. } => Some(self.permit(now, None)),
            State::Open { until } if now >= until => {
                let deadline = later(now, self.settings.probe_deadline);
                self.enter(State::Probing { until: deadline });
                Some(self.permit(now, Some(deadline)))
            }
            State::Open { .. } | State::Probing { .. } => None,
        }
    }

    /// Reports how a call ended. What calls of an earlier state bring, and while a state is forced, is ignored.
    pub fn report(&mut self, permit: Permit, outcome: CallOutcome, now: Instant) {
        if self.forced.is_some() || permit.epoch != self.epoch {
            return;
        }
        let took = now.saturating_duration_since(permit.started);
        let failed = match permit.deadline {
            Some(deadline) => outcome == CallOutcome::Failed || now > deadline,
            None => outcome == CallOutcome::Failed || took > self.settings.slow_after,
        };
        match self.state {
            State::Closed { .. } if !failed => self.state = State::CLOSED,
            State::Closed { last, .. } if last.is_some_and(|last| permit.started < last) => {}
            State::Closed { failures, .. } => {
                let failures = failures.saturating_add(1);
                if failures >= self.settings.failure_threshold {
                    self.open(now);
                } else {
                    let last = Some(now);
                    self.state = State::Closed { failures, last };
                }
            }
            State::Probing { .. } if failed => self.open(now),
            State::Probing { .. } => self.enter(State::CLOSED),
            State::Open { .. } => {}
        }
    }

    /// What it does with a call at `now`.
    pub fn state(&self, now: Instant) -> CircuitState {
        match (self.forced, self.state) {
            (Some(Forced::Open), _) => CircuitState::Open,
            (Some(Forced::Closed), _) | (None, State::Closed { .. }) => CircuitState::Closed,
            (None, State::Open { until }) if now < until => CircuitState::Open,
            (None, State::Probing { until })
                if now > until && now < later(until, self.settings.open_for) =>
            {
                CircuitState::Open
            }
            (None, State::Open { .. } | State::Probing { .. }) => CircuitState::HalfOpen,
        }
    }

    /// When it lets the next call through, if it does not now; `None` while it is closed or forced.
    pub fn retry_at(&self) -> Option<Instant> {
        match (self.forced, self.state) {
            (Some(_), _) | (None, State::Closed { .. }) => None,
            (None, State::Open { until }) => Some(until),
            (None, State::Probing { until }) => Some(later(until, self.settings.open_for)),
        }
    }

    /// Lets the next call through as a probe without waiting, if the circuit is open: for a last try before the
    /// end of the process.
    pub fn probe_now(&mut self, now: Instant) {
        if let State::Open { until } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// Keeps a state, or with `None` goes on by itself: from forced open with a probe, from forced closed closed.
    pub fn force(&mut self, forced: Option<Forced>, now: Instant) {
        match (self.forced, forced) {
            (before, after) if before == after => {}
            (Some(Forced::Open), None) => self.enter(State::Open { until: now }),
            (Some(Forced::Closed), None) => self.enter(State::CLOSED),
            _ => self.epoch += 1,
        }
        self.forced = forced;
    }

    /// A probe that was never reported failed when its deadline passed.
    fn tick(&mut self, now: Instant) {
        if let State::Probing { until } = self.state
            && now > until
        {
            self.open(until);
        }
    }

    fn open(&mut self, now: Instant) {
        self.enter(State::Open {
            until: later(now, self.settings.open_for),
        });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }

    fn permit(&self, now: Instant, deadline: Option<Instant>) -> Permit {
        Permit {
            epoch: self.epoch,
            started: now,
            deadline,
        }
    }
}

/// `now + wait`; waits beyond what the clock can hold are cut to a century, which is for ever here.
fn later(now: Instant, wait: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(wait.min(CENTURY)).unwrap_or(now)
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
