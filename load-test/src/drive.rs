//! One run of traffic through a bed, from the first order to the last one accounted for; shown as it goes. Used by
//! `soak` and `latency`, which judge what came of it.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use orchestrator_testkit::usage;

use crate::bed::Bed;
use crate::traffic::{Counts, Plan, Second, Seconds, Traffic};

const LOOK: Duration = Duration::from_millis(20);
const SECOND: Duration = Duration::from_secs(1);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seconds: Seconds,
    pub(crate) counts: Counts,
    /// From the first order's moment to the last one seen.
    pub(crate) took: Duration,
    /// From the program's start to the first order seen.
    pub(crate) first_output: Option<Duration>,
    /// CPU time of a broker of ours.
    pub(crate) broker_cpu_seconds: Option<f64>,
    /// Nothing moved for so long that it was given up.
    pub(crate) stalled: bool,
    /// Why it broke off, if program, generator or observer could not go on.
    pub(crate) broken: Option<String>,
}

/// Runs it to its end, or until it breaks off; what was seen until then is worth a report, too.
pub(crate) fn drive(bed: &Bed, plan: &Plan, warm_up: Duration, patience: Duration) -> Result<Run> {
    let broker_cpu = || Some(usage::of_tree(bed.broker.pid?)?.cpu_seconds);
    let broker_before = broker_cpu();
    let mut traffic = Traffic::start(plan)?;
    let mut seconds = Seconds::new(warm_up);
    let mut display = Display::new(plan);
    let (mut moved, mut accounted) = (Instant::now(), 0);
    let mut first_output = None;
    let mut next = SECOND;
    let (stalled, broken) = loop {
        std::thread::sleep(LOOK);
        let looked = look(bed, &mut traffic);
        let all_sent = matches!(looked, Ok(true));
        let counts = traffic.counts();
        if counts.accounted > accounted {
            (moved, accounted) = (Instant::now(), counts.accounted);
            first_output.get_or_insert_with(|| bed.started.elapsed());
        }
        // Where failures have no topic of their own they cannot be seen here.
        let unseen = if plan.dead_letters.count() == 0 {
            counts.poison
        } else {
            0
        };
        let done = all_sent && counts.accounted + unseen >= plan.num_records;
        let stalled = all_sent && !done && moved.elapsed() > patience;
        let over = done || stalled || looked.is_err();
        if traffic.elapsed() >= next || over {
            display.show(seconds.end_one(&traffic, bed.pid()));
            next = traffic.elapsed() + SECOND;
        }
        if over {
            break (stalled, looked.err());
        }
    };
    let took = traffic.elapsed().saturating_sub(moved.elapsed());
    let broker_cpu_seconds = broker_before.and_then(|before| Some(broker_cpu()? - before));
    display.clear();
    traffic.end();
    let counts = traffic.counts();
    let broken = broken.map(|error| {
        let Counts {
            sent, accounted, ..
        } = counts;
        format!("the run broke off with {accounted} of {sent} orders accounted for: {error:#}")
    });
    Ok(Run {
        seconds,
        counts,
        took,
        first_output,
        broker_cpu_seconds,
        stalled,
        broken,
    })
}

/// Whether everything has been sent; fails if program, generator or observer cannot go on.
fn look(bed: &Bed, traffic: &mut Traffic) -> Result<bool> {
    bed.must_run()?;
    traffic.must_observe()?;
    traffic.all_sent().context("orders cannot be sent")
}

/// A bar on a terminal, else a line now and then.
struct Display {
    bar: Option<ProgressBar>,
    said: Option<Instant>,
    /// Whether failures have a topic of their own, where they are seen.
    has_dead_letters: bool,
}

impl Display {
    fn new(plan: &Plan) -> Self {
        let style = "{bar:30} {human_pos}/{human_len} {elapsed} {msg}";
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new(plan.num_records);
            match ProgressStyle::with_template(style) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self {
            bar,
            said: None,
            has_dead_letters: plan.dead_letters.count() > 0,
        }
    }

    fn show(&mut self, second: &Second) {
        let Counts {
            sent, accounted, ..
        } = second.counts;
        let p99 = second
            .latency_ms(0.99)
            .map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        let text = format!(
            "{:.0}/s, lag {}, {}, p99 {p99}",
            second.rate(),
            second.lag(),
            failures(&second.counts, self.has_dead_letters),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(accounted);
                bar.set_message(text);
            }
            None if self.said.is_none_or(|said| said.elapsed() >= LINE_EVERY) => {
                self.said = Some(Instant::now());
                let at = second.at.as_secs_f64();
                println!("{at:6.1} s  sent {sent}, accounted for {accounted}, {text}");
            }
            None => {}
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What is known of failures so far: without dead letters only how many there are to be.
fn failures(counts: &Counts, has_dead_letters: bool) -> String {
    let sent = format!("poison sent {}", counts.poison);
    if has_dead_letters {
        format!("{sent}, dead letters {}", counts.dead_letters)
    } else {
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_nobody_sees_are_not_said_to_be_none() {
        let counts = Counts {
            poison: 12,
            dead_letters: 7,
            ..Counts::default()
        };
        assert_eq!(failures(&counts, true), "poison sent 12, dead letters 7");
        assert_eq!(failures(&counts, false), "poison sent 12");
    }
}
