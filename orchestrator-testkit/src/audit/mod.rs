//! The auditor: whether a consume-transform-produce program keeps its promise, on any topics, from the outside.
//!
//! It reads sources, targets, dead-letter queues and the failure ledger as a stranger would, by code that shares nothing
//! with the runtime, and proves of every source record below the committed offset that it is exactly one of: all of its
//! outputs, a failure (dead letter, row of the ledger), deliberately filtered; in order per partition; that nothing is
//! visible beyond the committed offset; and that no transaction is left open.
//!
//! ```no_run
//! use orchestrator_testkit::audit::{Client, Identity, Scope, audit};
//! # fn main() -> Result<(), orchestrator_testkit::audit::AuditError> {
//! let client = Client::new("127.0.0.1:9092");
//! let mut scope = Scope::new(client, "enrich", "orders", "enriched", Identity::Key);
//! scope.dead_letters = vec!["orders.dlq".to_owned()];
//! let verdict = audit(scope)?;
//! assert!(verdict.is_clean(), "{verdict:?}");
//! # Ok(()) }
//! ```
//!
//! Calls block: from async code use a thread. A program may go on working while it is audited; [`Auditor`] goes on with
//! it. Each record that is not settled takes about 100 bytes: with [`audit`] all of them, while following those behind
//! the committed offsets and [`Scope::remembered`] others.
//!
//! Topics must not be compacted, and a group whose offsets are set back makes records come out again: that is found.

mod auditor;
mod book;
mod client;
mod cluster;
mod error;
mod exposition;
mod findings;
mod identity;
mod kind;
mod lane;
mod ledger;
mod letter;
mod recent;
mod scope;
mod scrape;
mod seen;
mod stream;
mod tail;
mod verdict;

pub use auditor::{Auditor, Pass};
pub use client::Client;
pub use cluster::{Cluster, Offsets};
pub use error::AuditError;
pub use exposition::exposition;
pub use findings::{Finding, Findings};
pub use identity::Identity;
pub use kind::Kind;
pub use ledger::{Ledger, Row, Rows};
pub use scope::{Outputs, Scope, Start};
pub use scrape::compare_metrics;
pub use seen::Seen;
pub use tail::Tail;
pub use verdict::{Counts, Verdict};

/// Audits everything from the start on, once.
///
/// # Errors
/// Where the audit cannot be made; what it finds is in the verdict.
pub fn audit(scope: Scope) -> Result<Verdict, AuditError> {
    let mut auditor = Auditor::new(scope)?;
    auditor.last_pass()?;
    Ok(auditor.verdict())
}
