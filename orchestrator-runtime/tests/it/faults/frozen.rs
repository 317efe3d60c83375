//! Processes that are stopped in the middle of a transaction. Used by tests that need one to be open for certain.

use std::collections::BTreeMap;

use orchestrator_testkit::process::{Process, Signal};
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;

use super::scene::{LIMIT, Scene};

/// So often a transaction must be seen as open.
const LOOKS: usize = 5;

impl Scene {
    /// Outputs are written as soon as they are sent, not just before the commit, so that a transaction can be seen as
    /// open.
    pub(crate) fn writing_at_once(self) -> Self {
        self.with("ORCH_KAFKA_PRODUCER_LINGER_MS", "0")
    }

    /// Whether records of an open transaction lie in the target: in the log, and visible to nobody.
    pub(crate) async fn has_open_transaction(&self) -> bool {
        let written = self.written().await;
        let visible = self.admin.end_offsets(&self.target, Isolation::Committed);
        visible.await.unwrap() != written
    }

    /// Stops working processes with SIGSTOP at a moment when one of them has a transaction open; they stay so.
    pub(crate) async fn freeze_in_transaction(&self, processes: &[&Process]) {
        let all = |signal| {
            for process in processes {
                process.signal(signal).unwrap();
            }
        };
        let frozen = wait::until("a transaction is open", LIMIT, async || {
            all(Signal::Stop);
            // One that is being completed is seen as open for a moment.
            let mut looks = 0;
            while looks < LOOKS && self.has_open_transaction().await {
                looks += 1;
            }
            if looks == LOOKS {
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
