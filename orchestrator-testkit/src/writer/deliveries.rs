//! Delivery reports, collected as they come.
//!
//! Called by librdkafka's polling thread; read by `mod.rs`, which waits for the last of them.

use std::sync::{Condvar, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::Position;

/// Collects delivery reports; the opaque value is the record's index.
#[derive(Default)]
pub(super) struct Deliveries {
    pub(super) state: Mutex<Progress>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct Progress {
    pub(super) positions: Vec<Position>,
    pub(super) delivered: usize,
    pub(super) failed: usize,
    pub(super) first_error: Option<String>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                if state.positions.len() <= index {
                    state.positions.resize(
                        index + 1,
                        Position {
                            partition: -1,
                            offset: -1,
                        },
                    );
                }
                state.positions[index] = Position {
                    partition: message.partition(),
                    offset: message.offset(),
                };
                state.delivered += 1;
            }
            Err((error, _)) => {
                state.failed += 1;
                state.first_error.get_or_insert_with(|| error.to_string());
            }
        }
        drop(state);
        self.changed.notify_all();
    }
}
