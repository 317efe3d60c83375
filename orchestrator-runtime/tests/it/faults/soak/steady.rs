//! What a process takes of the machine over time. It only looks.

use std::time::{Duration, Instant};

use orchestrator_testkit::usage;

use super::super::given;

/// Until then caches fill, and pools.
const WARM_UP: Duration = Duration::from_secs(10 * 60);
/// Less than that says nothing of a slope.
pub(super) const JUDGED_FROM: Duration = Duration::from_secs(20 * 60);
/// Bytes of resident memory in ten minutes.
const GROWTH_MAX: f64 = 1_000_000.0;
/// What comes and goes with connections that are made anew.
const FEW: i64 = 6;

#[derive(Clone, Copy, Debug)]
struct Look {
    after: Duration,
    resident: u64,
    threads: i64,
    descriptors: i64,
}

pub(super) struct Steady {
    pid: u32,
    began: Instant,
    looks: Vec<Look>,
}

impl Steady {
    pub(super) fn watch(pid: u32) -> Self {
        Self {
            pid,
            began: Instant::now(),
            looks: Vec::new(),
        }
    }

    /// Notes what it takes now.
    pub(super) fn look(&mut self) {
        let usage = usage::of_tree(self.pid).unwrap();
        let look = Look {
            after: self.began.elapsed(),
            resident: usage.rss_bytes,
            threads: usage.threads as i64,
            descriptors: usage.descriptors as i64,
        };
        println!("steady: {look:?}");
        self.looks.push(look);
    }

    /// Says how it went, and judges it if there was time enough.
    pub(super) fn judge(&self) {
        let warm: Vec<_> = self.looks.iter().filter(|it| it.after >= WARM_UP).collect();
        let lasted = self.looks.last().unwrap().after;
        if lasted < JUDGED_FROM {
            return;
        }
        let growth = slope(
            warm.iter()
                .map(|it| (it.after.as_secs_f64(), it.resident as f64)),
        );
        let growth = growth * 600.0;
        let (first, last) = warm.split_at(warm.len() / 2);
        let middle = |looks: &[&Look], of: fn(&Look) -> i64| {
            let mut values: Vec<_> = looks.iter().map(|look| of(look)).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let threads = |it: &Look| it.threads;
        let descriptors = |it: &Look| it.descriptors;
        let resident = |it: &Look| it.resident as i64 / 1_000;
        let halves = |of| (middle(first, of), middle(last, of));
        let (threads, descriptors, resident) =
            (halves(threads), halves(descriptors), halves(resident));
        given::measured(&format!(
            "{:.0} minutes, from the tenth on {:.2} MB in ten minutes; medians of both halves: {} and {} kB resident, \
             {} and {} threads, {} and {} descriptors",
            lasted.as_secs_f64() / 60.0,
            growth / 1e6,
            resident.0,
            resident.1,
            threads.0,
            threads.1,
            descriptors.0,
            descriptors.1,
        ));
        assert!(growth < GROWTH_MAX, "memory grows: {:?}", self.looks);
        for (before, after) in [threads, descriptors] {
            assert!(after <= before + FEW, "{:?}", self.looks);
        }
    }
}

/// By least squares.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count() as f64;
    let (x, y) = points
        .clone()
        .fold((0.0, 0.0), |(x, y), (a, b)| (x + a, y + b));
    let (x, y) = (x / count, y / count);
    let (above, below) = points.fold((0.0, 0.0), |(above, below), (a, b)| {
        (above + (a - x) * (b - y), below + (a - x) * (a - x))
    });
    above / below
}

#[test]
fn a_slope_is_that_of_a_line() {
    let line = [(0.0, 3.0), (1.0, 5.0), (2.0, 7.0)];
    assert!((slope(line.into_iter()) - 2.0).abs() < 1e-9);
}
