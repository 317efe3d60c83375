//! Orders that keep coming until told to stop, and what has to become of them. Used by tests that need a pipeline at
//! work while something happens to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::writer::{Position, write};
use tokio::task::JoinHandle;

use super::exact::{Fate, Input};
use super::given;

/// Poison among the orders: dead letters must be as exact as outputs.
const POISON: f64 = 0.005;
/// Far more than a load ever writes.
const NUMBERS_EACH: u64 = 10_000_000;
/// So many loads a process, and seeds that differ.
const LOADS_MAX: u64 = 1_000;
const SEEDS: u64 = 100_000;

/// Writes orders to a topic at a steady pace.
#[derive(Debug)]
pub(crate) struct Load {
    topic: String,
    orders: Orders,
    first: u64,
    stop: Arc<AtomicBool>,
    /// Taken by whoever waits for it.
    writing: Option<JoinHandle<Vec<Position>>>,
}

impl Drop for Load {
    /// A test that fails must not wait for a load that never ends.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Starts writing, with some poison, to where each key belongs.
    pub(crate) fn start(bootstrap: &str, topic: &str, per_second: u32) -> Self {
        Self::start_with(bootstrap, topic, per_second, POISON, None)
    }

    /// Starts writing without poison, to these partitions in turn.
    pub(crate) fn start_sound(bootstrap: &str, topic: &str, per_second: u32, to: Vec<i32>) -> Self {
        Self::start_with(bootstrap, topic, per_second, 0.0, Some(to))
    }

    /// Starts writing, so much of it poison, to where each key belongs.
    pub(crate) fn start_poisoned(
        bootstrap: &str,
        topic: &str,
        per_second: u32,
        poison: f64,
    ) -> Self {
        Self::start_with(bootstrap, topic, per_second, poison, None)
    }

    /// No two loads have an order in common: each has order numbers of its own, which the seed and their order give.
    fn start_with(
        bootstrap: &str,
        topic: &str,
        per_second: u32,
        poison: f64,
        to: Option<Vec<i32>>,
    ) -> Self {
        // The first numbers are left to orders that are written one by one.
        static LOADS: AtomicU64 = AtomicU64::new(1);
        let nth = LOADS.fetch_add(1, Ordering::Relaxed);
        let first = (given::seed_or(0) % SEEDS * LOADS_MAX + nth) * NUMBERS_EACH;
        let orders = Orders::new(first).poison(poison);
        let stop = Arc::new(AtomicBool::new(false));
        let (began, stopped) = (Instant::now(), stop.clone());
        let paced = (0_u32..).map_while(move |n| {
            let due = began + Duration::from_secs(1) * n / per_second;
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            let going_on = !stopped.load(Ordering::Relaxed);
            let order = || orders.order(first + u64::from(n)).into_record();
            going_on.then(|| match &to {
                Some(to) => order().partition(to[n as usize % to.len()]),
                None => order(),
            })
        });
        let (bootstrap, name) = (bootstrap.to_owned(), topic.to_owned());
        let writing = tokio::spawn(async move { write(&bootstrap, &name, paced).await.unwrap() });
        Self {
            topic: topic.to_owned(),
            orders,
            first,
            stop,
            writing: Some(writing),
        }
    }

    /// Stops, and says how many orders were written, and how many of them cannot be enriched: for loads that are too
    /// large to be judged order by order.
    pub(crate) async fn stop_and_count(mut self) -> (u64, u64) {
        let written = self.end().await.len() as u64;
        let orders = self.orders.range(self.first..self.first + written);
        let poison = orders.filter(|order| order.poison.is_some()).count();
        (written, poison as u64)
    }

    async fn end(&mut self) -> Vec<Position> {
        self.stop.store(true, Ordering::Relaxed);
        self.writing.take().unwrap().await.unwrap()
    }

    /// Stops, and gives all that was written.
    pub(crate) async fn stop(mut self) -> Vec<Input> {
        let positions = self.end().await;
        let end = self.first + positions.len() as u64;
        let orders = self.orders.range(self.first..end);
        let inputs = orders.zip(positions).map(|(order, at)| Input {
            topic: self.topic.clone(),
            at,
            fate: Fate::of_order(order.value.as_bytes()),
            key: Some(order.key.into()),
            value: Some(order.value.into()),
        });
        inputs.collect()
    }
}
