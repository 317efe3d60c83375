//! Processes that are stopped in the middle of a transaction. Used by tests that need one to be open for certain.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orchestrator_testkit::process::{Process, Signal};
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;

use super::scene::{LIMIT, Scene};

const LINGER_MS: &str = "ORCH_KAFKA_PRODUCER_LINGER_MS";
/// So long a transaction must be seen as open: more than its markers take on a machine with other things to do.
const LOOKED_AT: Duration = Duration::from_millis(300);

impl Scene {
    /// Outputs are written as soon as they are sent, not just before the commit, so that a transaction can be seen as
    /// open.
    pub(crate) fn writing_at_once(self) -> Self {
        self.with(LINGER_MS, "0")
    }

    /// Whether records of an open transaction lie in the target: in the log, and visible to nobody. While a process is at
    /// work what is visible may also be ahead of what was written a moment ago.
    pub(crate) async fn has_open_transaction(&self) -> bool {
        let written = self.written().await;
        let visible = self.admin.end_offsets(&self.target, Isolation::Committed);
        visible.await.unwrap() != written
    }

    /// Stops working processes with SIGSTOP at a moment when one of them has a transaction open; they stay so.
    pub(crate) async fn freeze_in_transaction(&self, processes: &[&Process]) {
        assert_eq!(
            self.variable(LINGER_MS),
            Some("0"),
            "what lingers is seen too late: the scene must be `writing_at_once`"
        );
        let all = |signal| {
            for process in processes {
                process.signal(signal).unwrap();
            }
        };
        let frozen = wait::until("a transaction is open", LIMIT, async || {
            all(Signal::Stop);
            // One that is being completed is seen as open for a moment.
            let since = Instant::now();
            let mut open = true;
            while open && since.elapsed() < LOOKED_AT {
                open = self.has_open_transaction().await;
            }
            if open {
                return true;
            }
            // They must get on with their work in between, or the group takes them for dead.
            let before = self.written().await;
            all(Signal::Cont);
            wait::until("something is written", LIMIT, async || {
                self.written().await != before
            })
            .await
            .unwrap();
            false
        });
        frozen.await.unwrap();
    }

    /// How far the target is written, by whoever and however it ends.
    async fn written(&self) -> BTreeMap<i32, i64> {
        let written = self.admin.end_offsets(&self.target, Isolation::Uncommitted);
        written.await.unwrap()
    }
}
