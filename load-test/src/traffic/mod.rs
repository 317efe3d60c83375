//! Orders on their way: a generator sends them to the source topic, an observer waits for them at the other end, and
//! what both see is noted each second. Used by `soak` and `latency`; knows nothing of the program in between.

mod generator;
mod observer;
mod schedule;
mod seconds;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use orchestrator_testkit::audit::Offsets;
use orchestrator_testkit::orders::Orders;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;

use crate::Property;
use schedule::Schedule;
pub(crate) use seconds::{Second, Seconds, ms};

/// What is sent where, how fast, and where it is to come out.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) servers: String,
    pub(crate) source: String,
    pub(crate) orders: Orders,
    pub(crate) num_records: u64,
    /// Orders a second in an open loop: each has its moment, whatever became of those before. None: as fast as they
    /// can be sent.
    pub(crate) rate: Option<f64>,
    pub(crate) producer_properties: Vec<Property>,
    /// Where outputs come out, from these offsets on.
    pub(crate) outputs: TopicPartitionList,
    /// Where dead letters come out.
    pub(crate) dead_letters: TopicPartitionList,
}

/// Microseconds from the moment an order was to be sent until a read_committed reader has its output or dead letter.
pub(crate) type Latencies = Histogram<u64>;

pub(crate) fn latencies() -> Latencies {
    // Three digits; grows as needed, so that no sample is dropped.
    Histogram::new(3).unwrap_or_else(|error| unreachable!("3 digits are allowed: {error}"))
}

/// What generator and observer share.
struct Shared {
    schedule: Schedule,
    sent: AtomicU64,
    /// Of them, those that cannot be enriched.
    poison: AtomicU64,
    outputs: AtomicU64,
    dead_letters: AtomicU64,
    /// Orders that came out at least once.
    accounted: AtomicU64,
    /// Came out again.
    repeated: AtomicU64,
    /// Nobody sent it.
    strange: AtomicU64,
    stop: AtomicBool,
    /// Since the last look.
    recent: Mutex<Latencies>,
    /// How late orders were sent, in microseconds, since the last look.
    late: Mutex<Latencies>,
}

/// Counts so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) poison: u64,
    pub(crate) outputs: u64,
    pub(crate) dead_letters: u64,
    pub(crate) accounted: u64,
    pub(crate) repeated: u64,
    pub(crate) strange: u64,
}

/// Orders under way.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    generator: Option<JoinHandle<Result<()>>>,
    observer: Option<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// Starts to observe, and then to send.
    pub(crate) fn start(plan: &Plan) -> Result<Self> {
        let shared = Arc::new(Shared {
            schedule: Schedule::new(plan.num_records, plan.rate),
            sent: AtomicU64::new(0),
            poison: AtomicU64::new(0),
            outputs: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            accounted: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            strange: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            recent: Mutex::new(latencies()),
            late: Mutex::new(latencies()),
        });
        let observer = observer::Observer::open(plan, Arc::clone(&shared))?;
        let observer = thread::Builder::new()
            .name("observer".to_owned())
            .spawn(move || observer.run())?;
        let generator = generator::Generator::open(plan, Arc::clone(&shared))?;
        let generator = thread::Builder::new()
            .name("generator".to_owned())
            .spawn(move || generator.run())?;
        Ok(Self {
            shared,
            generator: Some(generator),
            observer: Some(observer),
        })
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let shared = &self.shared;
        Counts {
            // Last: what was sent is never less than what came out.
            accounted: read(&shared.accounted),
            outputs: read(&shared.outputs),
            dead_letters: read(&shared.dead_letters),
            repeated: read(&shared.repeated),
            strange: read(&shared.strange),
            poison: read(&shared.poison),
            sent: read(&shared.sent),
        }
    }

    /// Since the traffic began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.shared.schedule.elapsed()
    }

    /// Latencies, and how late orders were sent, since the last call.
    pub(crate) fn take_latencies(&self) -> (Latencies, Latencies) {
        (taken(&self.shared.recent), taken(&self.shared.late))
    }

    /// Whether everything has been sent, and the broker has it; fails if it could not be.
    pub(crate) fn all_sent(&mut self) -> Result<bool> {
        let ended = self.generator.as_ref().is_none_or(JoinHandle::is_finished);
        if ended && let Some(generator) = self.generator.take() {
            joined(generator)?;
        }
        Ok(ended)
    }

    /// Fails if the observer could not go on.
    pub(crate) fn must_observe(&mut self) -> Result<()> {
        if self.observer.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(observer) = self.observer.take()
        {
            joined(observer)?;
        }
        Ok(())
    }

    /// Sends nothing more and looks no further: from now on the counts are final.
    pub(crate) fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in [self.generator.take(), self.observer.take()] {
            // What it failed with was asked for before, or does not matter any more.
            thread.map(JoinHandle::join).transpose().ok();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    let ended = thread.join();
    ended.map_err(|_| anyhow!("a thread of the harness panicked"))?
}

fn taken(histogram: &Mutex<Latencies>) -> Latencies {
    let mut histogram = histogram
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    std::mem::replace(&mut histogram, latencies())
}

/// Every partition of a topic from this offset on.
pub(crate) fn from(topic: &str, starts: &Offsets) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in starts {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(list)
}
