//! Whether what came out is what had to, whatever happened in between: every order is exactly one of output and failure,
//! its failure where the set-up says (dead letter, ledger row), in order per partition, to the byte, and nothing else is
//! there. Called by `soak`. It knows the input from the source topic itself and the outputs from the test kit's oracle,
//! and must share nothing with the runtime, not even what was seen while it ran. Of any other topics, see the test
//! kit's `audit`, whose readers it shares.

mod book;
mod rows;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use orchestrator_testkit::audit::{
    Client, Cluster, Finding, Findings, Kind, Ledger, Offsets, Seen, Tail,
};
use orchestrator_testkit::reader::Isolation;
use serde::Serialize;

use book::{Book, Wanted};

/// What is audited.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) servers: String,
    pub(crate) group: String,
    /// The topic, and where in it the orders begin.
    pub(crate) source: (String, Offsets),
    pub(crate) target: (String, Offsets),
    /// Where failures must be, if there.
    pub(crate) dead_letters: Option<(String, Offsets)>,
    pub(crate) ledger: Option<LedgerScope>,
    /// How many orders were sent.
    pub(crate) num_records: u64,
    /// Whether outputs are what the example app makes of orders.
    pub(crate) check_content: bool,
}

/// Where the rows are, and which there must be.
#[derive(Clone, Debug)]
pub(crate) struct LedgerScope {
    pub(crate) ledger: Ledger,
    pub(crate) rows: WantedRows,
    /// How long rows may be late.
    pub(crate) patience: Duration,
}

/// Of which orders there are rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WantedRows {
    /// Of those that failed, as LIGHTWEIGHT writes them
    Failures,
    /// Of all, as OUTBOX and RELIABLE write them
    All,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) orders: u64,
    pub(crate) outputs: u64,
    pub(crate) dead_letters: u64,
    pub(crate) ledger_rows: u64,
    /// Of them, those of orders that came out.
    pub(crate) rows_of_successes: u64,
    pub(crate) findings: Vec<Finding>,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Reads everything again, and says what is wrong.
pub(crate) fn audit(scope: &Scope) -> Result<Verdict> {
    let client = Client::new(&scope.servers);
    let cluster = Cluster::new(&client, &scope.group)?;
    let read = |(topic, starts): &(String, Offsets), show: &mut dyn FnMut(&Seen<'_>)| {
        let mut ends = cluster.ends(topic, Isolation::Committed)?;
        ends.retain(|partition, _| starts.contains_key(partition));
        let tail = Tail::new(&client, topic)?;
        tail.read(&mut starts.clone(), &ends, |seen| {
            show(seen);
            anyhow::Ok(())
        })
    };
    let mut book = Book::new(scope.num_records, scope.check_content);
    read(&scope.source, &mut |seen| book.sent(seen))?;
    read(&scope.target, &mut |seen| book.output(seen))?;
    if let Some(letters) = &scope.dead_letters {
        read(letters, &mut |seen| book.dead_letter(seen))?;
    }
    let wanted = Wanted::of(scope);
    if let Some(ledger) = &scope.ledger {
        rows::read(scope, ledger, &wanted, &mut book)?;
    }
    let mut verdict = book.close(&wanted);
    positions(scope, &cluster, &mut verdict)?;
    Ok(verdict)
}

/// The group has passed every order, and no transaction is open.
fn positions(scope: &Scope, cluster: &Cluster, verdict: &mut Verdict) -> Result<()> {
    let mut findings = Findings::default();
    let (source, _) = &scope.source;
    let ends = cluster.ends(source, Isolation::Committed)?;
    let committed = cluster.committed(source, Isolation::Uncommitted)?;
    for (partition, end) in ends {
        let at = committed.get(&partition).copied();
        if at != Some(end) && !(at.is_none() && end == 0) {
            let text = format!("{source}-{partition}: committed {at:?}, the end is {end}");
            findings.add("the committed offset is not the end of the source", || text);
        }
    }
    let letters = scope.dead_letters.as_ref().map(|(topic, _)| topic);
    for topic in [Some(&scope.target.0), letters].into_iter().flatten() {
        let stable = cluster.ends(topic, Isolation::Committed)?;
        for (partition, end) in cluster.ends(topic, Isolation::Uncommitted)? {
            if stable.get(&partition) != Some(&end) {
                let text = format!("{topic}-{partition}");
                findings.add(Kind::OpenTransaction.what(), || text);
            }
        }
    }
    verdict.findings.extend(findings.into_vec());
    Ok(())
}
