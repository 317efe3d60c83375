//! Finds out that a client has lost its brokers for good though they are there.
//!
//! librdkafka (2.10 and later) forgets every broker that a Metadata answer does not name, and after answers that name none
//! it may never look for one again (its issue #5301, open when this was written). A broker gives such answers as long as the
//! controller has fenced every one, as when the only broker stood still for longer than `broker.session.timeout.ms`. All
//! that helps is a new client. See `docs/adr/0003-group-membership.md`.

use std::time::{Duration, Instant};

use orchestrator_core::ports::SessionFailure;
use rdkafka::ClientConfig;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};

/// A topic of every cluster; it does not matter whether it is there or may be seen.
const TOPIC: &str = "__consumer_offsets";
/// How long one answer is waited for: longer than it takes to connect anew (`reconnect.backoff.max.ms`).
const PATIENCE: Duration = Duration::from_secs(3);
/// As often in a row a client has found no broker while another one did, before it is taken for lost.
const TIMES: u32 = 2;

/// Whether a client has an answer of a broker. Blocks.
pub(super) fn finds_a_broker<C: ClientContext>(client: &Client<C>) -> bool {
    let answer = client.fetch_metadata(Some(TOPIC), PATIENCE);
    answer.is_ok_and(|metadata| !metadata.brokers().is_empty())
}

/// Looks now and then whether a consumer has lost its brokers.
#[derive(Debug)]
pub(super) struct LostBrokers {
    config: ClientConfig,
    looked: Instant,
    missed: u32,
}

impl LostBrokers {
    /// How often it looks.
    pub(super) const EVERY: Duration = Duration::from_secs(5);

    /// Looks after consumers with these settings.
    pub(super) fn of(config: &ClientConfig) -> Self {
        Self {
            config: config.clone(),
            looked: Instant::now(),
            missed: 0,
        }
    }

    /// Looks, if it is time. Says why the session cannot go on, if that is so.
    pub(super) fn look<C: ClientContext>(&mut self, client: &Client<C>) -> Option<SessionFailure> {
        if self.looked.elapsed() < Self::EVERY {
            return None;
        }
        let lost = !finds_a_broker(client) && self.another_finds_one();
        self.missed = if lost { self.missed + 1 } else { 0 };
        self.looked = Instant::now();
        (self.missed >= TIMES).then(|| {
            let text =
                "the consumer has lost its brokers, which can be reached (librdkafka issue 5301)";
            SessionFailure::Broken(text.to_owned())
        })
    }

    /// It is no member of the group: it does not subscribe.
    fn another_finds_one(&self) -> bool {
        let another: Result<BaseConsumer, _> = self.config.create();
        another.is_ok_and(|another| finds_a_broker(another.client()))
    }
}
