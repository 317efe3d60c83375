//! Which record is being handled on this thread right now. The worker wraps each transform in [`with_record`],
//! [`in_record`] or [`in_batch`]; the log layers ask only when a line is written. Marking costs two writes to a
//! thread-local (about 2 ns): no clone of a record's bytes, no allocation, no formatting.

use std::pin::Pin;
use std::task::{Context, Poll};

use orchestrator_core::Record;
use pin_project_lite::pin_project;
use scoped_tls::scoped_thread_local;

scoped_thread_local!(static RECORD: Record);
scoped_thread_local!(static BATCH: Ends);

/// The first and the last record of a batch.
#[derive(Debug)]
struct Ends(Record, Record);

/// Runs `f` with `record` as the one being handled: each line logged meanwhile on this thread carries its dedup key.
/// Threads and tasks that `f` starts are not covered.
#[inline]
pub fn with_record<R>(record: &Record, f: impl FnOnce() -> R) -> R {
    RECORD.set(record, f)
}

/// The same for a future, on whatever thread it is polled or, given up on, dropped.
pub fn in_record<F: Future>(record: &Record, future: F) -> InRecord<'_, F> {
    let future = Some(future);
    InRecord { record, future }
}

/// The same for a future that handles several records of one partition at once: its lines carry the dedup keys of the
/// first and the last, as `first..last`.
pub fn in_batch<F: Future>(records: &[Record], future: F) -> InBatch<F> {
    let ends = match records {
        [] => None,
        [only] => Some(Ends(only.clone(), only.clone())),
        [first, .., last] => Some(Ends(first.clone(), last.clone())),
    };
    let future = Some(future);
    InBatch { ends, future }
}

/// The dedup key that this thread's lines carry, if a record is being handled on it. For subscribers other than
/// those of [`init_logging`](super::init_logging): ask when a line is written.
pub fn dedup_key() -> Option<String> {
    if RECORD.is_set() {
        Some(RECORD.with(|record| record.dedup_key().to_string()))
    } else if BATCH.is_set() {
        Some(BATCH.with(|Ends(first, last)| {
            let (first, last) = (first.dedup_key(), last.dedup_key());
            if first == last {
                first.to_string()
            } else {
                format!("{first}..{last}")
            }
        }))
    } else {
        None
    }
}

pin_project! {
    /// See [`in_record`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct InRecord<'a, F> {
        record: &'a Record,
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for InRecord<'_, F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            RECORD.set(this.record, || this.future.set(None));
        }
    }
}

impl<F: Future> Future for InRecord<'_, F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        RECORD.set(this.record, || poll_some(this.future, cx))
    }
}

pin_project! {
    /// See [`in_batch`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct InBatch<F> {
        ends: Option<Ends>,
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for InBatch<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            in_ends(this.ends.as_ref(), || this.future.set(None));
        }
    }
}

impl<F: Future> Future for InBatch<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        in_ends(this.ends.as_ref(), || poll_some(this.future, cx))
    }
}

fn in_ends<R>(ends: Option<&Ends>, f: impl FnOnce() -> R) -> R {
    match ends {
        Some(ends) => BATCH.set(ends, f),
        None => f(),
    }
}

/// The future is there until it is dropped.
#[inline]
fn poll_some<F: Future>(future: Pin<&mut Option<F>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    match future.as_pin_mut() {
        Some(future) => future.poll(cx),
        None => Poll::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        dedup_key().unwrap_or_default()
    }

    #[test]
    fn the_innermost_record_counts_and_nothing_is_left_behind() {
        let (outer, inner) = (
            Record::builder("a", 0, 1).build(),
            Record::builder("b", 2, 3).build(),
        );
        with_record(&outer, || {
            with_record(&inner, || assert_eq!(key(), "b-2-3"));
            assert_eq!(key(), "a-0-1");
            let caught = std::panic::catch_unwind(|| {
                with_record(&Record::builder("c", 0, 0).build(), || {
                    std::panic::resume_unwind(Box::new(()))
                })
            });
            assert!(caught.is_err());
            assert_eq!(key(), "a-0-1");
        });
        assert_eq!(dedup_key(), None);
    }

    #[tokio::test]
    async fn futures_on_one_thread_keep_their_keys_apart() {
        let records = [0, 1, 2].map(|offset| Record::builder("a", 0, offset).build());
        let seen = futures_util::future::join_all(records.iter().map(|record| {
            in_record(record, async move {
                tokio::task::yield_now().await;
                (key(), record.position().to_string())
            })
        }))
        .await;
        for (key, position) in seen {
            assert_eq!(key, position);
        }
        assert_eq!(in_batch(&records, async { key() }).await, "a-0-0..a-0-2");
        assert_eq!(dedup_key(), None);
    }
}
