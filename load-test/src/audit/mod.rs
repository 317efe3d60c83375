//! Whether what came out is what had to, whatever happened in between: every order is exactly one of output and failure,
//! its failure where the set-up says (dead letter, ledger row), in order per partition, to the byte, and nothing else is
//! there. Called by `soak`. It knows the input from the source topic itself and the outputs from the test kit's oracle,
//! and must share nothing with the runtime, not even what was seen while it ran.

mod book;
mod findings;
mod ledger;
mod read;

use anyhow::Result;
use orchestrator_testkit::admin::Admin;
use orchestrator_testkit::reader::Isolation;
use serde::Serialize;

use book::{Book, Wanted};
pub(crate) use findings::{Finding, Findings};
pub(crate) use ledger::{LedgerScope, Rows};

/// A partition and where it begins.
pub(crate) type Starts = Vec<(i32, i64)>;

/// What is audited.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) servers: String,
    pub(crate) group: String,
    /// The topic, and where in it the orders begin.
    pub(crate) source: (String, Starts),
    pub(crate) target: (String, Starts),
    /// Where failures must be, if there.
    pub(crate) dead_letters: Option<(String, Starts)>,
    pub(crate) ledger: Option<LedgerScope>,
    /// How many orders were sent.
    pub(crate) num_records: u64,
    /// Whether outputs are what the example app makes of orders.
    pub(crate) check_content: bool,
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
    let mut book = Book::new(scope.num_records, scope.check_content);
    let (source, starts) = &scope.source;
    read::all(&scope.servers, source, starts, |seen| book.sent(&seen))?;
    let (target, starts) = &scope.target;
    read::all(&scope.servers, target, starts, |seen| book.output(&seen))?;
    if let Some((topic, starts)) = &scope.dead_letters {
        read::all(&scope.servers, topic, starts, |seen| {
            book.dead_letter(&seen);
        })?;
    }
    if let Some(ledger) = &scope.ledger {
        ledger::rows(ledger, &scope.group, source, |partition, offset, row| {
            book.row(partition, offset, &row);
        })?;
    }
    let mut verdict = book.close(&Wanted::of(scope));
    positions(scope, &mut verdict)?;
    Ok(verdict)
}

/// The group has passed every order, and no transaction is open.
fn positions(scope: &Scope, verdict: &mut Verdict) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let admin = Admin::new(&scope.servers)?;
    let mut findings = Findings::default();
    runtime.block_on(async {
        let (source, _) = &scope.source;
        let ends = admin.end_offsets(source, Isolation::Committed).await?;
        let committed = admin.committed(&scope.group, source).await?;
        for (partition, end) in ends {
            let at = committed.get(&partition).copied();
            if at != Some(end) && !(at.is_none() && end == 0) {
                let text = format!("{source}-{partition}: committed {at:?}, the end is {end}");
                findings.add("the committed offset is not the end of the source", || text);
            }
        }
        let letters = scope.dead_letters.as_ref().map(|(topic, _)| topic);
        for topic in [Some(&scope.target.0), letters].into_iter().flatten() {
            let stable = admin.end_offsets(topic, Isolation::Committed).await?;
            let all = admin.end_offsets(topic, Isolation::Uncommitted).await?;
            for (partition, end) in all {
                if stable.get(&partition) != Some(&end) {
                    let text = format!("{topic}-{partition}");
                    findings.add("a transaction is left open", || text);
                }
            }
        }
        anyhow::Ok(())
    })?;
    verdict.findings.extend(findings.into_vec());
    Ok(())
}
