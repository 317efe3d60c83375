//! What a test of the ledger stands on: topics with orders, a table, the example app built for all databases, and the
//! comparison at the end.

use std::time::Duration;

use orchestrator_testkit::orders::Orders;
use orchestrator_testkit::process::{Process, Program};
use orchestrator_testkit::reader::{Isolation, ReadRecord};
use orchestrator_testkit::wait;
use orchestrator_testkit::writer::{WriteRecord, write};

use super::table::{Judged, Kind, Table, compare};
use super::truth::{Ledger, Life, Mode, Offsets, Strategy, truth};
use crate::faults::load::Load;
use crate::faults::scene::{LIMIT, Scene, shared};

const PARTITIONS: i32 = 3;
/// Reading a whole table is no small thing.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What the example app is built with.
pub(crate) const FEATURES: [&str; 2] = [
    "orchestrator-runtime/postgres",
    "orchestrator-runtime/mysql",
];

/// See the module.
pub(crate) struct Bed {
    pub(crate) scene: Scene,
    pub(crate) table: Table,
    pub(crate) ledger: Ledger,
}

impl Bed {
    pub(crate) async fn new(strategy: Strategy, kind: Kind, mode: Mode) -> Self {
        Self::with_table(strategy, Table::new(kind), mode).await
    }

    pub(crate) async fn with_table(strategy: Strategy, table: Table, mode: Mode) -> Self {
        let scene = Scene::new(shared(), 1, PARTITIONS)
            .await
            .with("ORCH_DB_STRATEGY", strategy.word())
            .with("ORCH_HTTP_ADDR", "127.0.0.1:0")
            // A database is not away because a machine is busy.
            .with("ORCH_DB_TIMEOUT_MS", "5000")
            .with("ORCH_DB_BATCH_BUDGET_MS", "5000")
            .with("ORCH_RETRY_BACKOFF_MS", "20")
            .with("ORCH_RETRY_BACKOFF_MAX_MS", "100");
        let scene = match strategy {
            Strategy::None => scene,
            _ => scene.with("ORCH_DB_URL", table.url()),
        };
        let scene = match mode {
            // Only the ledger knows of failures.
            Mode::SkipAndLog => scene
                .with("ORCH_FAILURE_MODE", "SKIP_AND_LOG")
                .with("ORCH_DLQ_TOPIC", ""),
            Mode::AtomicDlq => scene.with("ORCH_ATOMIC_ON_POISON", "DLQ"),
            Mode::AtomicBlock => scene.with("ORCH_ATOMIC_ON_POISON", "BLOCK"),
        };
        let ledger = Ledger {
            strategy,
            mode,
            keeps_all_payloads: false,
        };
        Self {
            scene,
            table,
            ledger,
        }
    }

    /// With the payload in every row.
    pub(crate) fn keeping_all_payloads(mut self) -> Self {
        self.ledger.keeps_all_payloads = true;
        self.with("ORCH_STORE_PAYLOAD", "ALL")
    }

    /// Sets a variable for all that is started.
    pub(crate) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.scene = self.scene.with(key, value);
        self
    }

    pub(crate) fn source(&self) -> &str {
        &self.scene.sources[0]
    }

    /// The example app, not started yet.
    pub(crate) fn program(&self) -> Program {
        self.scene.program_built_with(&FEATURES)
    }

    pub(crate) fn start(&self, instance: &str) -> Process {
        let program = self.program().env("ORCH_INSTANCE_ID", instance);
        program.start().unwrap()
    }

    pub(crate) async fn write(&self, records: Vec<WriteRecord>) {
        let written = write(&self.scene.bootstrap, self.source(), records).await;
        written.unwrap();
    }

    /// Orders to all partitions in turn, which fail as `fault` says of each.
    pub(crate) async fn write_orders(
        &self,
        count: u64,
        fault: impl Fn(u64) -> Option<&'static str>,
    ) {
        let seed = fastrand::u64(..);
        let orders = Orders::new(seed).range(0..count).map(|order| {
            let (index, partition) = (order.index, (order.index % PARTITIONS as u64) as i32);
            let record = order.into_record().partition(partition);
            match fault(index) {
                Some(fault) => record.header("x-fault", fault),
                None => record,
            }
        });
        self.write(orders.collect()).await;
    }

    /// Records of a second that a debug build can write to three databases at once on a slow machine: RELIABLE takes a
    /// statement for each.
    pub(crate) fn pace(&self) -> u32 {
        match self.ledger.strategy {
            Strategy::Reliable => 100,
            _ => 600,
        }
    }

    /// Orders that keep coming, a tenth of them poison.
    pub(crate) fn load(&self, per_second: u32) -> Load {
        Load::start_poisoned(&self.scene.bootstrap, self.source(), per_second, 0.1)
    }

    /// What lies in the source topic.
    pub(crate) async fn records(&self) -> Vec<ReadRecord> {
        self.scene.read(self.source(), Isolation::Uncommitted).await
    }

    /// Where the source topic ends.
    pub(crate) async fn ends(&self) -> Offsets {
        let ends = self
            .scene
            .admin
            .end_offsets(self.source(), Isolation::Committed);
        ends.await.unwrap()
    }

    /// What the group has committed.
    pub(crate) async fn committed(&self) -> Offsets {
        let committed = self.scene.admin.committed(&self.scene.group, self.source());
        committed.await.unwrap()
    }

    /// A life that passed everything, from where it began.
    pub(crate) async fn whole_life(&self, from: &Offsets) -> Life {
        Life::new(from, self.ends().await)
    }

    /// Waits until the ledger is what these lives have to leave: no row is missing.
    pub(crate) async fn settles(&self, lives: &[Life]) -> Judged {
        self.settles_with(lives, |judged| judged.missing == 0).await
    }

    /// The same, if that is enough.
    pub(crate) async fn settles_with(
        &self,
        lives: &[Life],
        enough: impl Fn(&Judged) -> bool,
    ) -> Judged {
        let wanted = truth(&self.records().await, self.ledger, lives);
        let mut last = Err(String::new());
        let settled = wait::until("the ledger is as the truth", LIMIT, async || {
            let rows = self.table.rows().await.map_err(|error| error.to_string());
            last = rows.and_then(|rows| compare(&wanted, &rows, &self.scene.group));
            let is_enough = last.as_ref().is_ok_and(&enough);
            if !is_enough {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            is_enough
        });
        let (kind, ledger) = (self.table.kind(), self.ledger);
        match (settled.await, last) {
            (Ok(()), Ok(judged)) => judged,
            (_, Ok(judged)) => panic!("{kind:?} {ledger:?}: {judged:?}"),
            (_, Err(last)) => panic!("{kind:?} {ledger:?}: {last}"),
        }
    }
}
