//! The threads a synchronous transformer runs on: at most so many, each of which takes one job after the other. They are
//! started when they are needed, and stay. Not tokio's blocking threads: with a job each the pool starts another one
//! whenever the last one has not come to rest yet, and each thread it ever had may keep memory of its own in the
//! allocator; and a transformer that is busy would leave none for anybody else.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::runtime::Handle;

/// Must not panic. Dropped without having run if there is no thread for it, or nobody wants it any more.
type Job = Box<dyn FnOnce() + Send>;

/// See the module. When it is dropped, jobs that have begun go on, and the others are dropped, too.
pub(super) struct Threads(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is a job for one that is idle, or one too many.
    called: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    at_most: usize,
    closed: bool,
}

impl Threads {
    pub(super) fn new(at_most: usize) -> Self {
        let state = State {
            at_most,
            ..State::default()
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            called: Condvar::new(),
        }))
    }

    /// Has this job done, after those that were given before. Within a runtime, which the job may use.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.jobs.push_back(Box::new(job));
        self.call_one(state);
    }

    /// Lets another job run beside the others, for one of them does not end.
    pub(super) fn allow_one_more(&self) {
        let mut state = self.0.lock();
        state.at_most += 1;
        self.call_one(state);
    }

    /// Takes that back. A job that has begun goes on.
    pub(super) fn allow_one_less(&self) {
        self.0.lock().at_most -= 1;
        self.0.called.notify_one();
    }

    /// Finds a thread for the job that was given last.
    fn call_one(&self, mut state: MutexGuard<'_, State>) {
        if state.jobs.len() <= state.idle {
            self.0.called.notify_one();
            return;
        }
        if state.jobs.is_empty() || state.threads >= state.at_most {
            return;
        }
        let (shared, runtime) = (self.0.clone(), Handle::current());
        let work = move || {
            let _within = runtime.enter();
            while let Some(job) = shared.next() {
                job();
            }
        };
        match thread::Builder::new()
            .name("orch-transform".to_owned())
            .spawn(work)
        {
            Ok(_) => state.threads += 1,
            Err(error) => {
                tracing::error!(%error, "no thread can be started for the transformer");
                if state.threads == 0 {
                    // Nobody would come. Dropped when the lock is not held: they are the application's.
                    let jobs = std::mem::take(&mut state.jobs);
                    drop(state);
                    drop(jobs);
                }
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.0.called.notify_all();
        drop(jobs);
    }
}

impl Shared {
    /// The next job of a thread, which it waits for; none if it is to end.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed || state.threads > state.at_most {
                state.threads -= 1;
                // It may have been called for a job.
                self.called.notify_one();
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self
                .called
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Threads")
            .field("jobs", &state.jobs.len())
            .field("threads", &state.threads)
            .field("idle", &state.idle)
            .field("at_most", &state.at_most)
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A job, and the thread it runs on.
    type Begun = (usize, ThreadId);

    /// Jobs that say where they begin, and end when they are told to.
    struct Bench {
        threads: Threads,
        begun: (Sender<Begun>, Receiver<Begun>),
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

        fn begins(&self) -> Begun {
            self.begun.1.recv_timeout(LIMIT).unwrap()
        }

        /// So many jobs wait, and no thread has nothing to do.
        fn assert_waiting(&self, jobs: usize) {
            let state = self.threads.0.lock();
            assert_eq!((state.jobs.len(), state.idle), (jobs, 0));
        }

        async fn wait_until(&self, so: impl Fn(&State) -> bool) {
            let becomes_so = async {
                while !so(&self.threads.0.lock()) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(LIMIT, becomes_so).await.unwrap();
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
            bench.assert_waiting(99 - job);
            ends.pop_front();
        }
        assert_eq!(used.len(), 1);
    }

    #[tokio::test]
    async fn a_thread_that_has_nothing_to_do_is_called_before_another_is_started() {
        let bench = Bench::new(8);
        let mut used = BTreeSet::new();
        for job in 0..20 {
            let end = bench.run(job);
            used.insert(format!("{:?}", bench.begins().1));
            drop(end);
            bench.wait_until(|state| state.idle > 0).await;
        }
        assert_eq!(used.len(), 1);
    }

    #[tokio::test]
    async fn as_many_jobs_run_at_once_as_are_allowed() {
        let bench = Bench::new(3);
        let mut ends: Vec<_> = (0..4).map(|job| bench.run(job)).collect();
        let begun: BTreeSet<_> = (0..3).map(|_| bench.begins().0).collect();
        assert_eq!(begun, (0..3).collect());
        bench.assert_waiting(1);
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
        bench.assert_waiting(1);
        bench.threads.allow_one_more();
        assert_eq!(bench.begins().0, 1);
        let third = bench.run(2);
        bench.assert_waiting(1);
        bench.threads.allow_one_less();
        drop(hangs);
        bench.wait_until(|state| state.threads == 1).await;
        bench.assert_waiting(1);
        drop(second);
        assert_eq!(bench.begins().0, 2);
        drop(third);
    }

    #[tokio::test]
    async fn a_job_may_use_the_runtime() {
        let threads = Threads::new(1);
        let (told, tells) = mpsc::channel();
        threads.run(move || told.send(Handle::current().block_on(async { 7 })).unwrap());
        assert_eq!(tells.recv_timeout(LIMIT).unwrap(), 7);
    }
}
