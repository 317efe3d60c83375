//! What happens around a group: to its requests, its broker, its database, a process's descriptors, and in its source.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_testkit::kafka::Kafka;
use orchestrator_testkit::postgres::Postgres;
use orchestrator_testkit::process::{Limit, Process};
use orchestrator_testkit::proxy::{Api, Fault, Plan, Proxy};
use orchestrator_testkit::wait;
use orchestrator_testkit::wall_clock::WallClock;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::task::block_in_place;

use super::super::clock::step;
use super::super::given;
use super::super::ill_statements::{FAST, commits_hang, slow};
use super::super::scene::LIMIT;
use super::super::served::counted;
use super::super::storm::{LONG, Storm};
use super::Unruly;
use super::coordinators::Loads;

/// Those of a transaction come first.
const CUT: [Api; 6] = [
    Api::AddPartitionsToTxn,
    Api::Produce,
    Api::AddOffsetsToTxn,
    Api::TxnOffsetCommit,
    Api::EndTxn,
    Api::Fetch,
];
const OF_TRANSACTIONS: usize = 5;
/// Times that each is cut before something else happens.
const CUTS: u64 = 3;
/// Longer than `ORCH_DB_TIMEOUT_MS`.
const SLOW_S: f64 = 1.5;
const END_IN_COMMIT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE application_name = 'orchestrator' AND wait_event = 'SyncRep'";
/// In seconds. Clients that were in the middle of a call sleep for as long, and are looked for at the end.
const STEP_MAX: i64 = 120;
/// Standard streams and little else are below.
const DESCRIPTORS: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outside {
    /// Connections are cut before the broker has a request of some kind.
    RequestsCut,
    /// Connections are cut instead of the answer to one of some kind.
    AnswersCut,
    /// A request of a transaction, or the answer to one, never arrives, and the connection stays.
    Lost,
    /// A commit reaches the broker after its repetition.
    CommitLate,
    /// The broker stands still.
    BrokerSilent,
    /// The broker is killed, or told to end, and comes back.
    BrokerEnded,
    /// The database ends at once, and comes back.
    DatabaseEnded,
    /// The database stands still with all its connections.
    DatabaseSilent,
    /// Somebody locks the ledger's table.
    DatabaseLocked,
    /// Statements that write take longer than they may.
    DatabaseSlow,
    /// Connections to the database are lost in the middle of COMMIT.
    DatabaseCutInCommit,
    /// A process may not open anything any more, and its connections are cut.
    DescriptorsGone,
    /// The wall clock that all processes go by is stepped.
    ClockStepped,
    /// Records come that cannot be transformed, decoded, written, or not at once.
    Unruly,
}

impl Outside {
    pub(super) const ALL: [Self; 14] = [
        Self::RequestsCut,
        Self::AnswersCut,
        Self::Lost,
        Self::CommitLate,
        Self::BrokerSilent,
        Self::BrokerEnded,
        Self::DatabaseEnded,
        Self::DatabaseSilent,
        Self::DatabaseLocked,
        Self::DatabaseSlow,
        Self::DatabaseCutInCommit,
        Self::DescriptorsGone,
        Self::ClockStepped,
        Self::Unruly,
    ];

    /// Any of them, or none: then something happens to the group itself.
    pub(super) fn any(random: &mut fastrand::Rng) -> Option<Self> {
        let which = random.usize(0..Self::ALL.len() * 2);
        Self::ALL.get(which).copied()
    }
}

pub(super) struct World {
    pub(super) kafka: Kafka,
    pub(super) proxy: Proxy,
    pub(super) database: Postgres,
    pub(super) clock: Arc<WallClock>,
    /// Of the ledger.
    pub(super) url: String,
    pub(super) bitten: BTreeMap<String, u64>,
}

impl World {
    /// Lets something happen, sees that it has, and waits until all are at work again.
    pub(super) async fn happens(&mut self, event: Outside, storm: &mut Storm, unruly: &mut Unruly) {
        let random = &mut storm.random;
        match event {
            Outside::RequestsCut => {
                let api = CUT[random.usize(..CUT.len())];
                self.cut(api, Fault::CutRequest, storm).await;
            }
            Outside::AnswersCut => {
                let api = CUT[random.usize(..CUT.len())];
                self.cut(api, Fault::CutAnswer, storm).await;
            }
            Outside::Lost => {
                let api = CUT[random.usize(..OF_TRANSACTIONS)];
                let fault = match random.bool() {
                    true => Fault::LoseRequest,
                    false => Fault::LoseAnswer,
                };
                let what = format!("{api:?} {fault:?}");
                self.bites(Plan::new(api, fault), 1, &what, storm).await;
            }
            Outside::CommitLate => {
                let late = Duration::from_millis(random.u64(200..400));
                let plan = Plan::new(Api::EndTxn, Fault::LateRequest(late));
                self.bites(plan.every(3), 1, "EndTxn late", storm).await;
            }
            Outside::BrokerSilent => {
                // Not so long that it is fenced (`broker.session.timeout.ms`): it may forget markers then, too.
                let time = Duration::from_millis(random.u64(200..1_400));
                self.kafka.pause().unwrap();
                tokio::time::sleep(time).await;
                self.kafka.resume().unwrap();
                self.has_bitten("the broker silent", 1);
            }
            Outside::BrokerEnded => {
                let killed = random.bool();
                self.broker_ends(killed, storm).await;
            }
            Outside::DatabaseEnded => {
                block_in_place(|| self.database.stop_immediate().unwrap());
                until_circuit(storm.spared(), true).await;
                block_in_place(|| self.database.restart().unwrap());
                self.is_well_again(storm.spared(), "the database ended")
                    .await;
            }
            Outside::DatabaseSilent => {
                block_in_place(|| self.database.pause().unwrap());
                until_circuit(storm.spared(), true).await;
                block_in_place(|| self.database.resume().unwrap());
                self.is_well_again(storm.spared(), "the database silent")
                    .await;
            }
            Outside::DatabaseLocked => {
                let mut rival = PgConnection::connect(&self.url).await.unwrap();
                let lock = "BEGIN; LOCK TABLE event_failures IN ACCESS EXCLUSIVE MODE";
                sqlx::raw_sql(lock).execute(&mut rival).await.unwrap();
                until_circuit(storm.spared(), true).await;
                rival.execute("ROLLBACK").await.unwrap();
                self.is_well_again(storm.spared(), "the ledger's table locked")
                    .await;
            }
            Outside::DatabaseSlow => {
                self.sql(&slow(SLOW_S)).await;
                until_circuit(storm.spared(), true).await;
                self.sql(FAST).await;
                self.is_well_again(storm.spared(), "the database slow")
                    .await;
            }
            Outside::DatabaseCutInCommit => {
                self.cut_in_commit().await;
                self.is_well_again(storm.spared(), "COMMIT cut").await;
            }
            Outside::DescriptorsGone => {
                let process = storm.spared();
                let (before, began) = (process.line_count(), Instant::now());
                process
                    .limit(Limit::Descriptors, Some(DESCRIPTORS))
                    .unwrap();
                let plan = Plan::new(Api::Produce, Fault::CutAnswer);
                self.proxy.inflict(plan.every(5));
                let told = |line: &str| line.contains("Too many open files");
                let told = process.wait_for_line_after(before, LIMIT, told);
                told.await.unwrap();
                self.proxy.relent();
                process.limit(Limit::Descriptors, None).unwrap();
                println!("it had none after {:?}", began.elapsed());
                self.has_bitten("no more descriptors", 1);
            }
            Outside::ClockStepped => {
                let seconds = random.i64(2..STEP_MAX);
                let forward = random.bool();
                step(&self.clock, if forward { seconds } else { -seconds }).await;
                self.has_bitten("the wall clock stepped", 1);
            }
            Outside::Unruly => {
                unruly.come(&storm.scene).await;
                storm.scene.wait_until_caught_up().await;
            }
        }
        storm.wait_until_all_work(20).await;
    }

    /// While all stand still and every transaction is decided: a broker that ends while it completes one may forget its
    /// markers (KAFKA-20734). So nobody's transaction, nor anybody's place in the group, lives through it.
    async fn broker_ends(&mut self, killed: bool, storm: &Storm) {
        storm.all_freeze().await;
        tokio::time::sleep(LONG).await;
        storm.scene.wait_until_all_is_decided().await.unwrap();
        match killed {
            true => self.kafka.kill().unwrap(),
            false => self.kafka.terminate().unwrap(),
        }
        // They see that it is gone; and not before all is loaded that it is back.
        storm.all_go_on();
        storm.all_freeze().await;
        let loads = Loads::of(&self.kafka);
        self.kafka.restart().unwrap();
        loads.wait().await;
        storm.all_go_on();
        let what = match killed {
            true => "the broker killed",
            false => "the broker told to end",
        };
        self.has_bitten(what, 1);
    }

    async fn sql(&self, statements: &str) {
        let mut admin = PgConnection::connect(&self.url).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut admin);
        done.await.unwrap();
    }

    async fn cut_in_commit(&self) {
        let mut admin = PgConnection::connect(&self.url).await.unwrap();
        commits_hang(&mut admin, true).await;
        let mut cut = 0;
        let all_cut = wait::until("connections are lost in COMMIT", LIMIT, async || {
            cut += admin.fetch_all(END_IN_COMMIT).await.unwrap().len() as u64;
            cut >= CUTS
        });
        all_cut.await.unwrap();
        commits_hang(&mut admin, false).await;
    }

    /// Of the database.
    async fn is_well_again(&mut self, process: &Process, what: &str) {
        until_circuit(process, false).await;
        self.has_bitten(what, 1);
    }

    async fn cut(&mut self, api: Api, fault: Fault, storm: &Storm) {
        let plan = Plan::new(api, fault).every(3);
        let what = format!("{api:?} {fault:?}");
        self.bites(plan, CUTS, &what, storm).await;
    }

    async fn bites(&mut self, plan: Plan, times: u64, what: &str, storm: &Storm) {
        let bites = self.proxy.inflict(plan.times(times));
        let bitten = wait::until(what, LIMIT, async || bites.bitten() >= times);
        if let Err(error) = bitten.await {
            storm.tell_how_it_stands().await;
            panic!("void: {error}: {} of {times}", bites.bitten());
        }
        self.has_bitten(what, times);
    }

    fn has_bitten(&mut self, what: &str, times: u64) {
        *self.bitten.entry(what.to_owned()).or_default() += times;
    }

    /// Says how often each has happened.
    pub(super) fn tell(&self) {
        for (what, times) in &self.bitten {
            given::bitten(*times, what);
        }
    }
}

/// Waits until a process leaves its database alone, or does not any more.
async fn until_circuit(process: &Process, open: bool) {
    let what = format!("the ledger's circuit is open: {open}");
    let circuit = wait::until(&what, LIMIT, async || {
        (counted(process, "orch_db_circuit_open").await > 0) == open
    });
    circuit.await.unwrap();
}
