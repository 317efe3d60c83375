//! Producer instances on their way out: closing one takes up to a second and may hang, so each is closed on a thread of
//! its own. Filled by the producer. It must never hold up a transaction.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Instance;

/// How long to wait for all to end when the last is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// More than this many on their way out at once are told of.
const MANY: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Retired {
    closing: Vec<JoinHandle<()>>,
}

impl Retired {
    /// Closes an instance: what it has not sent is dropped. The broker fences it once a newer one is initialised.
    pub(super) fn take(&mut self, instance: Instance) {
        self.closing.retain(|thread| !thread.is_finished());
        let thread = thread::Builder::new()
            .name("orch-producer-close".to_owned())
            .spawn(move || drop(instance));
        match thread {
            Ok(thread) => self.closing.push(thread),
            // The closure was dropped, and the instance with it: here and now.
            Err(error) => tracing::warn!(%error, "no thread to close a producer on"),
        }
        if self.closing.len() > MANY {
            tracing::warn!(
                count = self.closing.len(),
                "producers do not finish closing"
            );
        }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        let deadline = Instant::now() + CLOSE_PATIENCE;
        while self.closing.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() > deadline {
                tracing::warn!("a producer does not finish closing and is left behind");
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}
