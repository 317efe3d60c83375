//! The auditor at the heels of a soak, on a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use orchestrator_testkit::audit::{Auditor, Counts, Scope, Verdict};
use sqlx::{Connection, PgConnection};

use super::super::scene::Scene;

const REST: Duration = Duration::from_secs(1);

pub(super) struct Following {
    seen: Arc<Mutex<Verdict>>,
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Verdict>,
    url: String,
}

impl Following {
    /// Before anything is written.
    pub(super) fn start(scene: &Scene, url: &str) -> Self {
        let scope = scene.audited(url);
        let (seen, over) = (Arc::new(Mutex::new(Verdict::default())), Arc::default());
        let (shown, ends) = (Arc::clone(&seen), Arc::clone(&over));
        let thread = thread::spawn(move || follow(scope, &shown, &ends));
        Self {
            seen,
            over,
            thread,
            url: url.to_owned(),
        }
    }

    pub(super) fn assert_clean(&self) {
        assert!(!self.thread.is_finished(), "the auditor has ended");
        let verdict = self.seen.lock().unwrap().clone();
        assert!(verdict.is_clean(), "{verdict:?}");
        println!("audited: {}", verdict.counts);
    }

    /// Rows of failures, counted with SQL.
    pub(super) async fn rows(&self) -> u64 {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let rows = "SELECT count(*) FROM event_failures WHERE status = 'FAILED'";
        let rows = sqlx::query_scalar::<_, i64>(rows).fetch_one(&mut connection);
        rows.await.unwrap() as u64
    }

    /// When nobody is at work any more: what there is in the end.
    pub(super) async fn end(self) -> Counts {
        self.over.store(true, Ordering::Relaxed);
        let verdict = tokio::task::spawn_blocking(|| self.thread.join().unwrap());
        let verdict = verdict.await.unwrap();
        assert!(verdict.is_clean(), "{verdict:?}");
        verdict.counts
    }
}

fn follow(scope: Scope, seen: &Mutex<Verdict>, over: &AtomicBool) -> Verdict {
    let mut auditor = Auditor::new(scope).unwrap();
    loop {
        let last = over.load(Ordering::Relaxed);
        let pass = match last {
            true => auditor.last_pass(),
            false => auditor.pass(),
        };
        let verdict = auditor.verdict();
        *seen.lock().unwrap() = verdict.clone();
        match pass {
            Ok(_) if last => return verdict,
            Ok(_) => {}
            // The database is away: the next pass goes on where this one was.
            Err(error) => {
                assert!(!error.is_usage() && !last, "{error}");
                println!("audit: {error}");
            }
        }
        thread::sleep(REST);
    }
}
