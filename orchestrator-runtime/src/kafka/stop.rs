//! A signal to stop, with waits that end when it is given. Given by whoever closes a committer, heeded by threads
//! that try again and again. It must never be taken back.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A signal to stop; clones share it.
#[derive(Clone, Default)]
pub struct StopSignal {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl StopSignal {
    /// Gives the signal and ends all waits.
    pub fn stop(&self) {
        *self.lock() = true;
        self.shared.1.notify_all();
    }

    /// Whether it was given.
    pub fn is_stopped(&self) -> bool {
        *self.lock()
    }

    /// Waits for so long, or until the signal is given; whether it was not.
    pub fn wait(&self, time: Duration) -> bool {
        let (stopped, _) = self
            .shared
            .1
            .wait_timeout_while(self.lock(), time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StopSignal({})", self.is_stopped())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_signal() {
        let stop = StopSignal::default();
        assert!(stop.wait(Duration::from_millis(1)));
        let other = stop.clone();
        let waiting = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        stop.stop();
        assert!(!waiting.join().unwrap());
        assert!(stop.is_stopped());
    }
}
