//! A run, second by second: what was sent and came out, how long it took, what the program cost. Filled by whoever
//! drives the traffic, read by the reports.

use std::time::Duration;

use orchestrator_testkit::usage::{self, Usage};

use super::{Counts, Latencies, Traffic, latencies};

/// About one second.
#[derive(Clone, Debug)]
pub(crate) struct Second {
    /// When it ended, since the beginning.
    pub(crate) at: Duration,
    /// How long it was.
    pub(crate) took: Duration,
    /// So far.
    pub(crate) counts: Counts,
    /// In this second.
    pub(crate) sent: u64,
    pub(crate) accounted: u64,
    /// Of what came out in this second.
    pub(crate) latencies: Latencies,
    /// Of the program, if it is ours.
    pub(crate) usage: Option<Usage>,
}

impl Second {
    /// Orders sent that have not come out.
    pub(crate) fn lag(&self) -> u64 {
        self.counts.sent.saturating_sub(self.counts.accounted)
    }

    /// Orders a second that came out.
    pub(crate) fn rate(&self) -> f64 {
        self.accounted as f64 / self.took.as_secs_f64()
    }

    /// Milliseconds within which this share of what came out did so; none if nothing did.
    pub(crate) fn latency_ms(&self, quantile: f64) -> Option<f64> {
        (!self.latencies.is_empty()).then(|| ms(&self.latencies, quantile))
    }
}

/// Milliseconds within which this share was done.
pub(crate) fn ms(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Seconds {
    pub(crate) all: Vec<Second>,
    /// How late orders were sent.
    pub(crate) late: Latencies,
    /// Since when what came out counts.
    warm_up: Duration,
    /// Of all that counts.
    pub(crate) latencies: Latencies,
}

impl Seconds {
    /// What comes out during the warm-up is in its seconds, but does not count for the whole.
    pub(crate) fn new(warm_up: Duration) -> Self {
        Self {
            all: Vec::new(),
            late: latencies(),
            warm_up,
            latencies: latencies(),
        }
    }

    /// Ends a second.
    pub(crate) fn end_one(&mut self, traffic: &Traffic, program: Option<u32>) -> &Second {
        let (recent, late) = traffic.take_latencies();
        let (at, counts) = (traffic.elapsed(), traffic.counts());
        let before = self.all.last();
        let (before_at, before) = before.map_or((Duration::ZERO, Counts::default()), |last| {
            (last.at, last.counts)
        });
        if before_at >= self.warm_up {
            self.latencies += &recent;
            self.late += &late;
        }
        self.all.push(Second {
            at,
            took: at - before_at,
            counts,
            sent: counts.sent - before.sent,
            accounted: counts.accounted - before.accounted,
            latencies: recent,
            usage: program.and_then(usage::of_tree),
        });
        &self.all[self.all.len() - 1]
    }
}
