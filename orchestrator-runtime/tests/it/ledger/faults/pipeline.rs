//! One pipeline under a load while its database is ill-treated: what it says of itself meanwhile, and whether it kept
//! its promises in the end.

use std::time::{Duration, Instant};

use orchestrator_testkit::postgres::Postgres;
use orchestrator_testkit::process::Process;
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;
use tokio::sync::watch::{Receiver, Sender};

use super::super::bed::Bed;
use super::super::table::Table;
use super::super::truth::{Mode, Offsets, Strategy};
use super::Bite;
use crate::faults::exact::{Fate, check};
use crate::faults::load::Load;
use crate::faults::scene::{LIMIT, drain};
use crate::faults::served::{get, wait_until_all_work};

/// What six pipelines at once can do on a machine that is busy. RELIABLE takes a statement for each record.
fn pace(strategy: Strategy) -> u32 {
    match strategy {
        Strategy::Reliable => 40,
        _ => 160,
    }
}

/// Few enough that the failures of 2.5 s, a tenth of what comes in, fill it.
const QUEUE_MAX_ROWS: &str = "30";
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// No more than so long may pass without any progress: time-outs until the breaker opens, and a machine that is busy.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Of what comes in during the fault, so much is passed during it,
const PASSED_MIN_PERCENT: i64 = 70;
/// but for what comes in so many seconds each time it begins: five time-outs, until the breaker opens, and what it takes to catch up.
const LATE_S: i64 = 3;
/// RELIABLE notes a record a statement: at that pace it goes on until the breaker opens, and after every probe that went well.
const RELIABLE_LATE_S: i64 = 4;

/// See the module.
pub(super) struct Pipeline {
    pub(super) bed: Bed,
    pub(super) app: Process,
    pub(super) spills: bool,
    pub(super) load: Load,
    before: Look,
    /// What was written before the fault, and during it.
    written: (i64, i64),
    looks: Vec<Look>,
}

/// What the metrics say at a moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    metrics: String,
}

impl Look {
    pub(super) async fn at(app: &Process) -> Self {
        Self {
            metrics: get(app, "/metrics").await,
            at: Instant::now(),
        }
    }

    /// The sum of what is said under this name, with this text among the labels.
    pub(super) fn sum(&self, name: &str, label: &str) -> i64 {
        let of_name = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        };
        let values = self.metrics.lines().filter(of_name);
        let values = values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        values.sum::<f64>() as i64
    }

    pub(super) fn passed(&self) -> i64 {
        self.sum("orch_records_ok_total", "") + self.sum("orch_records_skipped_total", "")
    }

    pub(super) fn dropped(&self) -> i64 {
        self.sum("orch_ledger_rows_dropped_total", "")
    }
}

impl Pipeline {
    /// Starts one, and waits until it is at work and its ledger is well.
    pub(super) async fn start(
        server: &Postgres,
        strategy: Strategy,
        spills: bool,
        more: &[(&str, &str)],
    ) -> Self {
        let bed = Bed::with_table(strategy, Table::on(server), Mode::SkipAndLog).await;
        let spill_dir = bed.table.folder().join("spill").display().to_string();
        let bed = bed
            // What a statement may take on a machine that is busy.
            .with("ORCH_DB_TIMEOUT_MS", "400")
            .with("ORCH_DB_CIRCUIT_OPEN_MS", "500")
            .with("ORCH_DB_QUEUE_MAX_ROWS", QUEUE_MAX_ROWS)
            .with("ORCH_SPILL_DIR", if spills { &spill_dir } else { "" })
            // A consumer that is not polled for so long is put out of the group; a busy machine is not.
            .with("ORCH_KAFKA_CONSUMER_SESSION_TIMEOUT_MS", "6000")
            .with("ORCH_KAFKA_CONSUMER_MAX_POLL_INTERVAL_MS", "12000")
            .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "10000")
            // Fewer, larger transactions: several pipelines share two cores with two servers.
            .with("ORCH_COMMIT_INTERVAL_MS", "40");
        let bed = more
            .iter()
            .fold(bed, |bed, (key, value)| bed.with(key, *value));
        let app = bed.start("solo");
        let pace = pace(strategy);
        let load = bed.load(pace);
        wait_until_all_work(&[&app], pace.into()).await;
        bed.scene.wait_until_caught_up().await;
        let mut before = Look::at(&app).await;
        let well = wait::until("the ledger is well", LIMIT, async || {
            before = Look::at(&app).await;
            before.sum("orch_db_degraded", "") == 0
        });
        if let Err(never) = well.await {
            let health = get(&app, "/health").await;
            panic!("{strategy:?}: {never}; {health}");
        }
        Self {
            bed,
            app,
            spills,
            load,
            before,
            written: (0, 0),
            looks: Vec::new(),
        }
    }

    async fn written(&self) -> i64 {
        let source = self.bed.source();
        let ends = self
            .bed
            .scene
            .admin
            .end_offsets(source, Isolation::Committed);
        ends.await.unwrap().values().sum()
    }

    pub(super) async fn fault_begins(&mut self) {
        self.written.0 = self.written().await;
        self.before = Look::at(&self.app).await;
    }

    /// Looks at it until the fault is over, and tells as soon as it was felt.
    pub(super) async fn watch(&mut self, bite: Bite, felt: Sender<bool>, mut over: Receiver<bool>) {
        loop {
            self.looks.push(Look::at(&self.app).await);
            felt.send_replace(self.unfelt(bite).is_empty());
            let ended = over.wait_for(|over| *over);
            if tokio::time::timeout(LOOK_EVERY, ended).await.is_ok() {
                break;
            }
        }
        self.written.1 = self.written().await - self.written.0;
        self.looks.push(Look::at(&self.app).await);
    }

    /// Lets it come to rest, and tells what is wrong.
    pub(super) async fn finish(self, bite: Bite) -> Vec<String> {
        let mut findings = self.kafka_went_on(bite);
        findings.extend(self.unfelt(bite));
        let name = self.name();
        let Self {
            bed,
            app,
            spills,
            load,
            before,
            ..
        } = self;
        // Healed, and for a while at work.
        wait_until_all_work(&[&app], pace(bed.ledger.strategy).into()).await;
        let inputs = load.stop().await;
        bed.scene.wait_until_caught_up().await;
        let mut last = Look::at(&app).await;
        let well = wait::until("nothing waits any more", LIMIT, async || {
            last = Look::at(&app).await;
            last.sum("orch_db_degraded", "") == 0 && last.sum("orch_ledger_rows_waiting", "") == 0
        });
        if let Err(error) = well.await {
            findings.push(format!("{name}: {error}"));
        }
        // A machine that stalls may have cost rows before the fault, too.
        let dropped = last.dropped();
        let lives = [bed.whole_life(&Offsets::new()).await];
        // What is late may still be under way; what was dropped never comes.
        let judged = bed
            .settles_with(&lives, |judged| judged.missing as i64 <= dropped)
            .await;
        if judged.missing as i64 != dropped || (spills && dropped != 0) {
            findings.push(format!(
                "{name}: {judged:?}, but {dropped} rows were counted as dropped"
            ));
        }
        let assigned = |look: &Look| look.sum("orch_rebalances_total", "");
        if assigned(&last) != assigned(&before) {
            findings.push(format!("{name}: its partitions were taken away"));
        }
        drain(&app).await;
        bed.settles_with(&lives, |after| *after == judged).await;
        let inputs: Vec<_> = inputs
            .into_iter()
            .map(|mut input| {
                if input.fate == Fate::DeadLetter {
                    input.fate = Fate::Nothing;
                }
                input
            })
            .collect();
        let outputs = bed
            .scene
            .read(&bed.scene.target, Isolation::Committed)
            .await;
        findings.extend(check(&inputs, &outputs, &[]).err());
        findings
    }

    fn name(&self) -> String {
        let journal = if self.spills { "with" } else { "without" };
        format!("{:?} {journal} a journal", self.bed.ledger.strategy)
    }

    /// Whether records were passed all the time, as many as came in.
    fn kafka_went_on(&self, bite: Bite) -> Vec<String> {
        let mut findings = Vec::new();
        let mut progress = (self.before.at, self.before.passed());
        let mut stall = Duration::ZERO;
        for look in &self.looks {
            stall = stall.max(look.at - progress.0);
            if look.passed() > progress.1 {
                progress = (look.at, look.passed());
            }
        }
        let passed = progress.1 - self.before.passed();
        let name = self.name();
        let written = self.written.1;
        eprintln!("{name}: passed {passed} of {written} during the fault, longest stall {stall:?}");
        if stall > STALL_MAX {
            findings.push(format!("{name}: nothing was passed for {stall:?}"));
        }
        let strategy = self.bed.ledger.strategy;
        let late_s = match strategy {
            Strategy::Reliable => RELIABLE_LATE_S,
            _ => LATE_S,
        };
        let late_s = late_s * i64::from(bite.begins);
        let in_time = written - late_s * i64::from(pace(strategy));
        if passed * 100 < in_time * PASSED_MIN_PERCENT {
            findings.push(format!(
                "{name}: {passed} of {written} records were passed in time"
            ));
        }
        findings
    }

    /// What of the fault was not felt until now.
    fn unfelt(&self, bite: Bite) -> Vec<String> {
        let mut findings = Vec::new();
        let name = self.name();
        let max = |metric: &str, label: &str| {
            let values = self.looks.iter().map(|look| look.sum(metric, label));
            values.max().unwrap_or(0)
        };
        if let Some(class) = bite.class {
            let label = format!("class=\"{class}\"");
            let before = self.before.sum("orch_db_errors_total", &label);
            if max("orch_db_errors_total", &label) == before {
                findings.push(format!("{name}: no statement failed as {class}"));
            }
        }
        if bite.opens && max("orch_db_circuit_open", "") == 0 {
            findings.push(format!("{name}: the circuit was never seen open"));
        }
        if bite.opens && self.spills && max("orch_ledger_spill_bytes", "") == 0 {
            findings.push(format!("{name}: nothing was seen in the journal"));
        }
        if bite.opens
            && !self.spills
            && max("orch_ledger_rows_dropped_total", "") == self.before.dropped()
        {
            findings.push(format!("{name}: nothing was dropped"));
        }
        findings
    }
}
