//! The threads a synchronous transformer runs on: at most so many of tokio's blocking threads, each of which takes one
//! job after the other while there are any. A thread a job would be simpler, but the pool starts another one whenever
//! the last one has not come to rest yet, and each thread it ever had may keep memory of its own in the allocator.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Must not panic.
type Job = Box<dyn FnOnce() + Send>;

/// See the module. When it is dropped, jobs that have begun go on, and the others are dropped, too.
pub(super) struct Threads(Arc<Mutex<State>>);

struct State {
    jobs: VecDeque<Job>,
    at_work: usize,
    at_most: usize,
}

impl Threads {
    pub(super) fn new(at_most: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            jobs: VecDeque::new(),
            at_work: 0,
            at_most,
        })))
    }

    /// Has this job done, after those that were given before.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.0);
        state.jobs.push_back(Box::new(job));
        self.call_another(state);
    }

    /// Lets another job run beside the others, for one of them does not end.
    pub(super) fn allow_one_more(&self) {
        let mut state = lock(&self.0);
        state.at_most += 1;
        self.call_another(state);
    }

    /// Takes that back. A job that has begun goes on.
    pub(super) fn allow_one_less(&self) {
        lock(&self.0).at_most -= 1;
    }

    fn call_another(&self, mut state: MutexGuard<'_, State>) {
        if state.jobs.is_empty() || state.at_work >= state.at_most {
            return;
        }
        state.at_work += 1;
        drop(state);
        let shared = self.0.clone();
        tokio::task::spawn_blocking(move || {
            while let Some(job) = next(&shared) {
                job();
            }
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        lock(&self.0).jobs.clear();
    }
}

/// The next job of a thread; none if it is to rest.
fn next(shared: &Mutex<State>) -> Option<Job> {
    let mut state = lock(shared);
    let job = match state.at_work > state.at_most {
        true => None,
        false => state.jobs.pop_front(),
    };
    if job.is_none() {
        state.at_work -= 1;
    }
    job
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0);
        f.debug_struct("Threads")
            .field("jobs", &state.jobs.len())
            .field("at_work", &state.at_work)
            .field("at_most", &state.at_most)
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Jobs that say where they begin, and end when they are told to.
    struct Bench {
        threads: Threads,
        begun: (Sender<(usize, ThreadId)>, Receiver<(usize, ThreadId)>),
    }

    impl Bench {
        fn new(at_most: usize) -> Self {
            Self {
                threads: Threads::new(at_most),
                begun: mpsc::channel(),
            }
        }

        /// It ends when what is given back is dropped.
        fn run(&self, job: usize) -> Sender<()> {
            let begun = self.begun.0.clone();
            let (end, ends) = mpsc::channel::<()>();
            self.threads.run(move || {
                begun.send((job, thread::current().id())).unwrap();
                let _ended = ends.recv();
            });
            end
        }

        fn begins(&self) -> (usize, ThreadId) {
            self.begun.1.recv_timeout(LIMIT).unwrap()
        }

        /// All that wait for nothing have begun when a thread of its own has done something after them.
        async fn nothing_begins(&self) {
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert!(self.begun.1.try_recv().is_err(), "{:?}", self.threads);
        }
    }

    #[tokio::test]
    async fn a_thread_takes_one_job_after_the_other() {
        let bench = Bench::new(1);
        let mut ends: VecDeque<_> = (0..100).map(|job| bench.run(job)).collect();
        let mut used = BTreeSet::new();
        for job in 0..100 {
            let (begun, thread) = bench.begins();
            assert_eq!(begun, job);
            used.insert(format!("{thread:?}"));
            bench.nothing_begins().await;
            ends.pop_front();
        }
        assert_eq!(used.len(), 1);
    }

    #[tokio::test]
    async fn as_many_jobs_run_at_once_as_are_allowed() {
        let bench = Bench::new(3);
        let mut ends: Vec<_> = (0..4).map(|job| bench.run(job)).collect();
        let begun: BTreeSet<_> = (0..3).map(|_| bench.begins().0).collect();
        assert_eq!(begun, (0..3).collect());
        bench.nothing_begins().await;
        ends.remove(1);
        assert_eq!(bench.begins().0, 3);
    }

    #[tokio::test]
    async fn what_has_not_begun_never_does_once_nobody_wants_it() {
        let bench = Bench::new(1);
        let first = bench.run(0);
        bench.begins();
        let second = bench.run(1);
        let Bench { threads, begun } = bench;
        drop(threads);
        // Its end is gone with it.
        assert!(second.send(()).is_err());
        drop(first);
        drop(begun.0);
        assert!(begun.1.recv_timeout(LIMIT).is_err());
    }

    #[tokio::test]
    async fn others_run_beside_a_job_that_does_not_end_and_no_longer_once_it_has() {
        let bench = Bench::new(1);
        let hangs = bench.run(0);
        bench.begins();
        let second = bench.run(1);
        bench.nothing_begins().await;
        bench.threads.allow_one_more();
        assert_eq!(bench.begins().0, 1);
        let third = bench.run(2);
        bench.nothing_begins().await;
        bench.threads.allow_one_less();
        drop(hangs);
        bench.nothing_begins().await;
        drop(second);
        assert_eq!(bench.begins().0, 2);
        drop(third);
    }
}
