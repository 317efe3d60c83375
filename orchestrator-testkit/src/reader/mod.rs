//! The independent reader: what a consumer outside of everything sees in a topic.
//!
//! Tests hold the runtime against it, so it shares no code with the runtime. It assigns partitions
//! without a group, commits nothing, and knows the end of a partition by Kafka's own end-of-file
//! event, never by counting: transactional topics have offsets without records.

mod record;
mod topic;

use std::fmt;
use std::time::{Duration, Instant};

pub use record::ReadRecord;

use topic::TopicReader;

const POLL_ONE_TOPIC: Duration = Duration::from_millis(100);
/// With several topics each is asked in turn, so none may take long.
const POLL_OF_SEVERAL: Duration = Duration::from_millis(2);

/// What of a transaction is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Only what was committed, and nothing behind a transaction that is still open.
    Committed,
    /// Everything in the log, aborted records too.
    Uncommitted,
}

impl Isolation {
    pub(crate) fn as_config(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// When a read is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Every partition has been read to its end. For [`Isolation::Committed`] an open transaction is
    /// the end: what is behind it is not visible yet.
    End,
    /// So many records have been read by this call, over all partitions.
    Count(usize),
}

/// Why a read is not complete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The deadline passed. What was read by then is here, in the order it came.
    #[error("read {} records within {deadline:?} and waited for {until:?}; now at {at}", .read.len())]
    Deadline {
        /// The time given.
        deadline: Duration,
        /// What was waited for.
        until: Until,
        /// How far each partition was read.
        at: String,
        /// What was read.
        read: Vec<ReadRecord>,
    },
    /// A topic does not exist.
    #[error("cannot read the topic {0}: it does not exist")]
    NoTopic(String),
    /// The client failed.
    #[error("cannot read the topic {topic}: {source}")]
    Client {
        /// The topic.
        topic: String,
        /// The client's error.
        source: rdkafka::error::KafkaError,
    },
    /// The reading thread panicked, or an earlier read of this follower was dropped half-way.
    #[error("the reading thread is gone: {0}")]
    Thread(String),
}

/// Reads topics from their beginning. The order is Kafka's own within a partition, and any between
/// partitions.
///
/// ```no_run
/// # async fn example() -> Result<(), orchestrator_testkit::reader::ReadError> {
/// use orchestrator_testkit::reader::{Isolation, Until, read_all};
/// use std::time::Duration;
/// let minute = Duration::from_secs(60);
/// let seen = read_all("127.0.0.1:9092", &["enriched"], Isolation::Committed, Until::End, minute).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// At the deadline, [`ReadError::Deadline`] holds what was read. Dropping the future leaves a thread
/// reading until then.
pub async fn read_all(
    bootstrap: &str,
    topics: &[&str],
    isolation: Isolation,
    until: Until,
    deadline: Duration,
) -> Result<Vec<ReadRecord>, ReadError> {
    Follower::new(bootstrap, topics, isolation)
        .read(until, deadline)
        .await
}

/// A reader that goes on where it stopped.
///
/// ```no_run
/// # async fn example() -> Result<(), orchestrator_testkit::reader::ReadError> {
/// use orchestrator_testkit::reader::{Follower, Isolation, Until};
/// use std::time::Duration;
/// let ten_seconds = Duration::from_secs(10);
/// let mut follower = Follower::new("127.0.0.1:9092", &["enriched"], Isolation::Committed);
/// let first_ten = follower.read(Until::Count(10), ten_seconds).await?;
/// let whatever_comes = follower.next(ten_seconds).await?;
/// let the_rest = follower.read(Until::End, ten_seconds).await?;
/// # Ok(()) }
/// ```
pub struct Follower {
    bootstrap: String,
    topics: Vec<String>,
    isolation: Isolation,
    state: State,
}

enum State {
    Unopened,
    Open(Vec<TopicReader>),
    /// A thread has the readers; if it is still there at the next call, that call was dropped.
    Away,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("topics", &self.topics)
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// Starts at the beginning of every partition; connects with the first read.
    pub fn new(bootstrap: &str, topics: &[&str], isolation: Isolation) -> Self {
        Self {
            bootstrap: bootstrap.to_owned(),
            topics: topics.iter().map(|&t| t.to_owned()).collect(),
            isolation,
            state: State::Unopened,
        }
    }

    /// Reads on until `until`, as of this call.
    ///
    /// # Errors
    /// As [`read_all`]; what a deadline error carries counts as read.
    pub async fn read(
        &mut self,
        until: Until,
        deadline: Duration,
    ) -> Result<Vec<ReadRecord>, ReadError> {
        self.on_a_thread(move |topics| {
            if until == Until::End {
                topics
                    .iter_mut()
                    .try_for_each(TopicReader::look_for_ends_again)?;
            }
            let done = |topics: &[TopicReader], read: usize| match until {
                Until::End => topics.iter().all(TopicReader::is_at_end),
                Until::Count(count) => read >= count,
            };
            let (read, complete) = read_while(topics, deadline, |t, read| !done(t, read));
            if complete {
                return Ok(read);
            }
            let at = topics
                .iter()
                .map(TopicReader::describe)
                .collect::<Vec<_>>()
                .join(", ");
            Err(ReadError::Deadline {
                deadline,
                until,
                at,
                read,
            })
        })
        .await
    }

    /// The next record; none if none comes within `wait`.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<ReadRecord>, ReadError> {
        self.on_a_thread(move |topics| {
            let (mut read, _) = read_while(topics, wait, |_, read| read == 0);
            Ok(read.pop())
        })
        .await
    }

    async fn on_a_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Vec<TopicReader>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let state = std::mem::replace(&mut self.state, State::Away);
        let (bootstrap, names, isolation) =
            (self.bootstrap.clone(), self.topics.clone(), self.isolation);
        let run = move || {
            let mut topics = match state {
                State::Open(topics) => topics,
                State::Unopened => {
                    let open = |topic| TopicReader::open(&bootstrap, topic, isolation);
                    names.iter().map(|n| open(n)).collect::<Result<_, _>>()?
                }
                State::Away => {
                    return Err(ReadError::Thread("an earlier read was dropped".to_owned()));
                }
            };
            let result = work(&mut topics);
            Ok((topics, result))
        };
        let done = tokio::task::spawn_blocking(run).await;
        let (topics, result) = done.map_err(|e| ReadError::Thread(e.to_string()))??;
        self.state = State::Open(topics);
        result
    }
}

/// Polls the topics in turn while `wanted`; `false` if the deadline came first.
fn read_while(
    topics: &mut [TopicReader],
    deadline: Duration,
    wanted: impl Fn(&[TopicReader], usize) -> bool,
) -> (Vec<ReadRecord>, bool) {
    let give_up = Instant::now() + deadline;
    let wait = if topics.len() == 1 {
        POLL_ONE_TOPIC
    } else {
        POLL_OF_SEVERAL
    };
    let mut read = Vec::new();
    while wanted(topics, read.len()) {
        let mut came = false;
        for i in 0..topics.len() {
            while wanted(topics, read.len()) {
                // As long as one has records at once, it goes on: a poll that waits ends its turn.
                let patience = if came { Duration::ZERO } else { wait };
                match topics[i].poll(patience) {
                    Some(record) => {
                        read.push(record);
                        came = true;
                    }
                    None => break,
                }
            }
        }
        if !came && Instant::now() >= give_up && wanted(topics, read.len()) {
            return (read, false);
        }
    }
    (read, true)
}
