//! When each order was to be sent. In an open loop that is decided before the run; latency is measured from it, so
//! that a sender who is held up hides nothing (coordinated omission).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// See the module.
pub(super) struct Schedule {
    begin: Instant,
    /// Orders a second.
    rate: Option<f64>,
    /// In nanoseconds since the beginning, of orders that have been sent; one more, so that 0 is not sent.
    intended: Vec<AtomicU64>,
}

impl Schedule {
    pub(super) fn new(num_records: u64, rate: Option<f64>) -> Self {
        Self {
            begin: Instant::now(),
            rate,
            intended: (0..num_records).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn num_records(&self) -> u64 {
        self.intended.len() as u64
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// When an order is to be sent, since the beginning; now, if as fast as possible.
    pub(super) fn due(&self, index: u64) -> Duration {
        match self.rate {
            Some(rate) => Duration::from_secs_f64(index as f64 / rate),
            None => self.elapsed(),
        }
    }

    /// The order is being sent.
    pub(super) fn sending(&self, index: u64, due: Duration) {
        if let Some(slot) = usize::try_from(index)
            .ok()
            .and_then(|at| self.intended.get(at))
        {
            slot.store(due.as_nanos() as u64 + 1, Ordering::Release);
        }
    }

    /// How long ago the order was to be sent; none if it never was.
    pub(super) fn since(&self, index: u64) -> Option<Duration> {
        let slot = self.intended.get(usize::try_from(index).ok()?)?;
        let due = slot.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.elapsed().saturating_sub(Duration::from_nanos(due)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_is_sent_late_counts_from_when_it_was_due() {
        let schedule = Schedule::new(2, Some(1000.0));
        assert_eq!(schedule.due(1), Duration::from_millis(1));
        assert_eq!(schedule.since(1), None);
        assert_eq!(schedule.since(2), None);
        while schedule.elapsed() < Duration::from_millis(5) {
            std::thread::yield_now();
        }
        schedule.sending(1, schedule.due(1));
        assert!(schedule.since(1) >= Some(Duration::from_millis(4)));
    }
}
