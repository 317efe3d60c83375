//! `load-test audit --follow`: pass after pass until a signal. The passes run on a thread of their own; the endpoint
//! sees a text that is replaced after each.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use orchestrator_testkit::audit::{AuditError, Auditor, Client, Pass, Scope, Verdict, exposition};

use super::{AuditArgs, endpoint};

/// From the end of a pass to the next.
const REST: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);

/// What the endpoint serves.
pub(super) type Page = Arc<Mutex<String>>;

pub(super) fn follow(args: &AuditArgs, scope: Scope) -> Result<Verdict, AuditError> {
    let client = scope.client.clone();
    let page = Page::default();
    endpoint::serve(args.http_addr.as_deref(), &client, &page)?;
    let mut auditor = match Auditor::new(scope) {
        // Asked to end before anything was seen.
        Err(AuditError::Stopped) => return Ok(Verdict::default()),
        other => other?,
    };
    println!("following {} ..", args.group_id);
    let show = |auditor: &Auditor, last, failed_passes| {
        let text = exposition(auditor, &args.group_id, last, failed_passes);
        *page.lock().unwrap_or_else(PoisonError::into_inner) = text;
    };
    show(&auditor, None, 0);
    let interval = Duration::from_secs(args.interval_seconds);
    let mut told: Option<Instant> = None;
    let mut last: Option<Pass> = None;
    let mut failed_passes = 0;
    while !client.is_stopped() {
        match auditor.pass() {
            Ok(pass) => last = Some(pass),
            Err(AuditError::Stopped) => break,
            Err(error) if error.is_usage() => return Err(error),
            // Cluster or ledger are away: the next pass goes on where this one was.
            Err(error) => {
                failed_passes += 1;
                eprintln!("{error}");
            }
        }
        show(&auditor, last, failed_passes);
        if told.is_none_or(|told| told.elapsed() >= interval) {
            told = Some(Instant::now());
            tell(&auditor, last);
        }
        rest(&client);
    }
    Ok(auditor.verdict())
}

fn tell(auditor: &Auditor, last: Option<Pass>) {
    let verdict = auditor.verdict();
    let wrong: u64 = verdict.findings.iter().map(|finding| finding.count).sum();
    let lag = last.map_or(0, |pass| pass.lag);
    println!("{}; lag {lag}; {wrong} violations", verdict.counts);
}

fn rest(client: &Client) {
    let began = Instant::now();
    while began.elapsed() < REST && !client.is_stopped() {
        thread::sleep(LOOK);
    }
}
