//! The place of a named member (`group.instance.id`) in a group. It decides between two processes of one name.
//!
//! In a group of KIP-848 it outlasts the member: the broker keeps it for the session time-out (45 s by default) when a
//! process is killed *and* when it leaves. Here it is taken, to be given up for good or to be handed to another consumer,
//! and watched. Called by the poll thread between consumers and once its place was refused to it, by the session's helper
//! thread, and by the transaction thread once it was fenced; all that blocks. The orchestrator visits it before it takes a fence for a twin.
//!
//! All that librdkafka (2.12) can say is "I am away for a while" (epoch -2). But a member of the classic protocol may
//! take the place of one with the same name, whoever that is; when it unsubscribes it leaves for good, and a member in
//! the protocol of KIP-848 may take its place in turn. See `docs/adr/0003-group-membership.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use orchestrator_core::ports::SessionFailure;
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::ffi;
use super::member::subscribe;
use super::stop::StopSignal;

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(5);
/// How long a twin that has fenced our producer may take to join the group, which is the next it does.
const TWIN_JOINS: Duration = Duration::from_secs(3);
/// How often it is asked meanwhile who has our place, and how long one answer is waited for.
const ASK_EVERY: Duration = Duration::from_millis(250);
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// How long it is tried to find that out: a broker may stand still for some seconds.
const FIND_OUT: Duration = Duration::from_secs(6);

/// What the broker may take to end a session, beyond its time-out.
const GHOST_GOES: Duration = Duration::from_secs(3);
/// librdkafka's default.
const SESSION: Duration = Duration::from_secs(45);
/// Of who stands in: should it be killed too, its place goes soon.
const STAND_IN_SESSION_MS: &str = "6000";

/// Why a place could not be given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// Another process took it in the same moment.
    #[error("another process has the same name: {0}")]
    Twin(String),
    #[error("the place in the consumer group cannot be taken: {0}")]
    Failed(String),
}

/// A named place in a group.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    group: String,
    name: String,
    /// The broker that is asked first.
    coordinator: Arc<AtomicI32>,
}

impl Name {
    /// The place of members with these settings, if they have a name.
    pub(crate) fn of(config: &ClientConfig) -> Option<Self> {
        let of_config = |property| config.get(property).map(str::to_owned);
        let (group, name) = (of_config("group.id")?, of_config("group.instance.id")?);
        Some(Self {
            group,
            name,
            coordinator: Arc::default(),
        })
    }

    /// The place that members with these settings leave behind, if they do.
    fn outlasting(config: &ClientConfig) -> Option<Self> {
        Self::of(config).filter(|_| is_consumer_protocol(config))
    }

    /// What it means for the member that its producer was fenced: the place in the group decides. Two processes of one
    /// name that start at once may each fence one of the other's two transactional ids, and only one of them is to end:
    /// the one whose place the other has. Gives a twin the time to take it.
    pub(crate) fn fenced<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        error: String,
    ) -> SessionFailure {
        self.judge(consumer, ffi::member_id, TWIN_JOINS, error)
    }

    /// What it means for a member of KIP-848 that its own place is refused to it (UNRELEASED_INSTANCE_ID). A twin may have
    /// it, or itself: when answers of the broker are lost, its epoch may be an old one, so that it is fenced and joins anew
    /// under the same id; and the broker (4.3) refuses a place that is taken even to who has it. Then the next consumer
    /// takes the place by a stand-in.
    pub(crate) fn refused<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        error: String,
    ) -> SessionFailure {
        self.judge(consumer, ffi::own_id, Duration::ZERO, error)
    }

    /// A twin has the place, or takes it within this time; or nobody but us has. Who cannot find out has a twin.
    fn judge<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        us: fn(&BaseConsumer<C>) -> Option<String>,
        twin_joins: Duration,
        error: String,
    ) -> SessionFailure {
        let began = Instant::now();
        loop {
            let found = self.member(consumer.client(), ASK_PATIENCE);
            match (found, us(consumer)) {
                (Ok(Some(member)), Some(us)) if member != us => {
                    return SessionFailure::Fenced(format!("{error}; {member} has our place"));
                }
                (Ok(_), _) if began.elapsed() >= twin_joins => {
                    let text = format!("{error}; but nobody else has our place in the group");
                    return SessionFailure::Broken(text);
                }
                (Err(unknown), _) if began.elapsed() >= FIND_OUT => {
                    tracing::debug!(unknown, "who has our place cannot be found out");
                    return SessionFailure::Fenced(error);
                }
                _ => thread::sleep(ASK_EVERY),
            }
        }
    }

    /// The id of the member in the place.
    fn member<C: ClientContext>(
        &self,
        client: &Client<C>,
        patience: Duration,
    ) -> Result<Option<String>, String> {
        let Self {
            group,
            name,
            coordinator,
        } = self;
        ffi::member_of_name(client, coordinator, group, name, patience)
    }
}

/// Whether members with these settings leave a place behind.
pub(crate) fn outlasts_its_member(config: &ClientConfig) -> bool {
    Name::outlasting(config).is_some()
}

/// Asks who has a place, without being a member.
#[derive(Clone)]
pub(crate) struct Visitor {
    name: Name,
    client: Arc<BaseConsumer<Stand>>,
    /// After so long a member that nobody is goes.
    session: Duration,
}

impl Visitor {
    /// To the place that members with these settings have, if they have a name. A ghost may be there: librdkafka (2.12)
    /// repeats a JoinGroup that had no answer. If the first one reaches the broker after that, the member that it makes takes
    /// the place from whoever has it, and nobody is that member. In KIP-848 those who stand in send JoinGroup; of its own
    /// members the broker gives a place to none while it is taken.
    pub(crate) fn to(config: &ClientConfig) -> Option<Result<Self, KafkaError>> {
        let name = Name::of(config)?;
        let session = if is_consumer_protocol(config) {
            Some(STAND_IN_SESSION_MS)
        } else {
            config.get("session.timeout.ms")
        };
        let session = session.and_then(|ms| ms.parse().ok());
        let session = session.map_or(SESSION, Duration::from_millis);
        let client = BaseConsumer::from_config_and_context(config, Stand::default());
        Some(client.map(|client| Self {
            name,
            client: Arc::new(client),
            session,
        }))
    }

    /// Whether somebody else has the place who lives: what nobody is goes with its session. As long as the broker does not
    /// tell, nobody knows; and one that comes back counts every session from its beginning.
    ///
    /// Cancel safety: only a question is left unanswered.
    pub(crate) async fn finds_a_twin(self) -> bool {
        let mut sight = Sight::default();
        loop {
            let visitor = self.clone();
            let asked = move || visitor.name.member(visitor.client.client(), ASK_PATIENCE);
            let found = tokio::task::spawn_blocking(asked).await;
            let found = found.unwrap_or_else(|error| Err(error.to_string()));
            if let Ok(None) = found {
                return false;
            }
            if sight.of(found.ok().flatten(), Instant::now()) > self.session + GHOST_GOES {
                return true;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

/// Who was seen in a place, and since when.
#[derive(Debug, Default)]
struct Sight(Option<(String, Instant)>);

impl Sight {
    /// For how long this member has been seen without a break.
    fn of(&mut self, member: Option<String>, now: Instant) -> Duration {
        self.0 = member.map(|member| match self.0.take() {
            Some((seen, since)) if seen == member => (seen, since),
            _ => (member, now),
        });
        let since = self.0.as_ref().map(|(_, since)| *since);
        since.map_or(Duration::ZERO, |since| now - since)
    }
}

/// Looks now and then whether a place is still ours. librdkafka (2.12) ignores what it is told when it is not, unless
/// partitions are at stake: FENCED_INSTANCE_ID and GROUP_ID_NOT_FOUND in answer to a heartbeat.
#[derive(Debug)]
pub(crate) struct Watch {
    name: Name,
    looked: Instant,
    /// The group has refused offsets from us since.
    doubted: bool,
    /// When nobody was found in the place, and nobody has been since.
    empty: Option<Instant>,
}

impl Watch {
    /// How often it looks,
    pub(crate) const EVERY: Duration = Duration::from_secs(10);
    /// and in doubt.
    const DOUBTED_EVERY: Duration = Duration::from_secs(1);
    /// Who was put out and joins again is back before that.
    const EMPTY_MAX: Duration = Duration::from_secs(5);

    /// A watch over the place of such members, if they have one.
    pub(crate) fn over(config: &ClientConfig) -> Option<Self> {
        Some(Self {
            name: Name::outlasting(config)?,
            looked: Instant::now(),
            doubted: false,
            empty: None,
        })
    }

    /// The group has refused offsets from us: it is time to look.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Looks, if it is time. Says why the session cannot go on, if that is so.
    pub(crate) fn look<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        patience: Duration,
    ) -> Option<SessionFailure> {
        let every = match self.doubted {
            true => Self::DOUBTED_EVERY,
            false => Self::EVERY,
        };
        if self.looked.elapsed() < every {
            return None;
        }
        (self.looked, self.doubted) = (Instant::now(), false);
        let before = ffi::member_id(consumer);
        let found = self.name.member(consumer.client(), patience);
        let found = found
            .inspect_err(|error| tracing::debug!(error, "who has our place cannot be found out"))
            .ok()?;
        // Who joins or leaves meanwhile has yet to hear of it.
        let us = before.filter(|before| ffi::member_id(consumer).as_ref() == Some(before));
        let Some(us) = us else {
            self.empty = None;
            return None;
        };
        match found {
            Some(member) if member == us => self.empty = None,
            Some(member) => {
                let text = format!("{member} has our place in the consumer group");
                return Some(SessionFailure::Fenced(text));
            }
            None => {
                let since = *self.empty.get_or_insert_with(Instant::now);
                if since.elapsed() >= Self::EMPTY_MAX {
                    let text = "the consumer group does not know us any more".to_owned();
                    return Some(SessionFailure::Broken(text));
                }
            }
        }
        None
    }
}

/// Whether these settings choose KIP-848.
pub(crate) fn is_consumer_protocol(config: &ClientConfig) -> bool {
    let protocol = config.get("group.protocol");
    protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
}

/// Who stands in a place and does nothing.
pub(crate) struct StandIn(BaseConsumer<Stand>);

impl StandIn {
    /// Takes the place that the settings name: whoever has it, or only from the member of that id. When this is dropped
    /// the place stays, for whoever comes under that name.
    pub(crate) fn take(
        config: &ClientConfig,
        topics: &[String],
        only_from: Option<&str>,
        deadline: Instant,
        stop: &StopSignal,
    ) -> Result<Self, PlaceError> {
        let failed = |error: KafkaError| PlaceError::Failed(error.to_string());
        let consumer = BaseConsumer::from_config_and_context(&classic(config), Stand::default())
            .map_err(failed)?;
        if let (Some(member), Some(name)) = (only_from, Name::of(config)) {
            let left = deadline.saturating_duration_since(Instant::now());
            match name.member(consumer.client(), left) {
                Ok(Some(found)) if found == member => {}
                Ok(found) => return Err(PlaceError::Twin(format!("{found:?} has our place"))),
                Err(error) => return Err(PlaceError::Failed(error)),
            }
        }
        subscribe(&consumer, topics).map_err(failed)?;
        let stands = |consumer: &BaseConsumer<Stand>| consumer.context().0.load(Ordering::Relaxed);
        poll_until(&consumer, deadline, stop, stands)?;
        Ok(Self(consumer))
    }

    /// Leaves the group, which forgets the place.
    pub(crate) fn leave(self, deadline: Instant, stop: &StopSignal) -> Result<(), PlaceError> {
        // Not by closing it: a named member of the classic protocol that is closed does not leave.
        self.0.unsubscribe();
        poll_until(&self.0, deadline, stop, |consumer| {
            !ffi::is_member(consumer)
        })
    }
}

fn poll_until(
    consumer: &BaseConsumer<Stand>,
    deadline: Instant,
    stop: &StopSignal,
    is_so: impl Fn(&BaseConsumer<Stand>) -> bool,
) -> Result<(), PlaceError> {
    while !is_so(consumer) {
        // Errors that matter are fatal, or end with the deadline.
        drop(consumer.poll(POLL));
        match consumer.client().fatal_error() {
            Some((RDKafkaErrorCode::FencedInstanceId, text)) => return Err(PlaceError::Twin(text)),
            Some((_, text)) => return Err(PlaceError::Failed(text)),
            None => {}
        }
        if Instant::now() > deadline || stop.is_stopped() {
            return Err(PlaceError::Failed("no answer in time".to_owned()));
        }
    }
    Ok(())
}

/// The same member, as one of the classic protocol.
fn classic(config: &ClientConfig) -> ClientConfig {
    let mut classic = config.clone();
    classic.remove("group.protocol");
    classic.remove("group.remote.assignor");
    classic.set("partition.assignment.strategy", "cooperative-sticky");
    classic.set("session.timeout.ms", STAND_IN_SESSION_MS);
    classic.set("heartbeat.interval.ms", "1000");
    classic
}

/// Stands in the place and reads nothing; whether it does so already.
#[derive(Debug, Default)]
struct Stand(AtomicBool);

impl ClientContext for Stand {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }
}

impl ConsumerContext for Stand {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let followed = match (assign, consumer.rebalance_protocol()) {
            (true, RebalanceProtocol::Cooperative) => consumer
                .incremental_assign(list)
                .and_then(|()| consumer.pause(list)),
            (true, _) => consumer.assign(list).and_then(|()| consumer.pause(list)),
            (false, RebalanceProtocol::Cooperative) => consumer.incremental_unassign(list),
            (false, _) => consumer.unassign(),
        };
        if let Err(error) = followed {
            tracing::debug!(%error, "a rebalance could not be followed");
        }
        self.0.fetch_or(assign, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_seen_again_after_a_silence_is_seen_anew() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let somebody = |name: &str| Some(name.to_owned());
        let mut sight = Sight::default();
        assert_eq!(sight.of(somebody("one"), at(0)), Duration::ZERO);
        assert_eq!(sight.of(somebody("one"), at(4)), Duration::from_secs(4));
        assert_eq!(sight.of(None, at(9)), Duration::ZERO);
        assert_eq!(sight.of(somebody("one"), at(10)), Duration::ZERO);
        assert_eq!(sight.of(somebody("one"), at(12)), Duration::from_secs(2));
        assert_eq!(sight.of(somebody("other"), at(13)), Duration::ZERO);
    }
}
