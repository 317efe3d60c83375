//! Sends the orders, each at its moment. Runs on a thread of its own; must never wait for what comes out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use orchestrator_testkit::orders::Orders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{Plan, Shared};
use crate::fill;

const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest sleep, so that the end of a run is noticed.
const NAP: Duration = Duration::from_millis(20);
/// So many in a row between two looks at errors.
const SERVE_EVERY: u64 = 1024;

/// See the module.
pub(super) struct Generator {
    producer: BaseProducer,
    source: String,
    orders: Orders,
    shared: Arc<Shared>,
}

impl Generator {
    pub(super) fn open(plan: &Plan, shared: Arc<Shared>) -> Result<Self> {
        let mut config = fill::producer_config(&plan.servers);
        // As fast as possible means large batches; in an open loop a record's own moment counts.
        let linger = if plan.rate.is_none() { "50" } else { "0" };
        config.set("linger.ms", linger);
        for property in &plan.producer_properties {
            config.set(&property.key, &property.value);
        }
        Ok(Self {
            producer: config.create().context("producer of the orders")?,
            source: plan.source.clone(),
            orders: plan.orders,
            shared,
        })
    }

    pub(super) fn run(self) -> Result<()> {
        let schedule = &self.shared.schedule;
        for index in 0..schedule.num_records() {
            // Made before its moment, so that making it is not lateness.
            let order = self.orders.order(index);
            let due = schedule.due(index);
            loop {
                if self.shared.stop.load(Ordering::Relaxed) {
                    // What was handed over counts as sent.
                    return self.flush();
                }
                match due.checked_sub(schedule.elapsed()) {
                    Some(early) if !early.is_zero() => thread::sleep(early.min(NAP)),
                    _ => break,
                }
            }
            schedule.sending(index, due);
            let record = BaseRecord::to(&self.source)
                .key(order.key.as_str())
                .payload(order.value.as_str());
            fill::send(&self.producer, record)?;
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            if order.poison.is_some() {
                self.shared.poison.fetch_add(1, Ordering::Relaxed);
            }
            self.late(schedule.elapsed().saturating_sub(due));
            if index % SERVE_EVERY == 0 {
                self.producer.poll(Duration::ZERO);
            }
        }
        self.flush()
    }

    fn flush(&self) -> Result<()> {
        self.producer.flush(FLUSH_TIMEOUT).context("flush")
    }

    fn late(&self, by: Duration) {
        let mut late = self
            .shared
            .late
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *late += by.as_micros() as u64;
    }
}
