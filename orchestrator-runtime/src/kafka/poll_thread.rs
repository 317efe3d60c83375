//! The poll thread from its beginning to its end: one consumer, or another in its stead when the group still keeps the
//! place of a killed process that had our name. Run by the session; it ends when the group has been left.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use orchestrator_core::ports::SessionFailure;

use super::member::{Blueprint, Member, subscribe};
use super::place::{self, PlaceError, StandIn};
use super::poll::{Command, End, Poller, Polling};
use super::stop::StopSignal;

/// How long a place may take to be taken, and to be given up.
const PLACE_PATIENCE: Duration = Duration::from_secs(4);
/// So often a place is taken back. Who has it again each time lives, or is ourselves: when it was given to us and the
/// answer was lost, it is refused to whoever asks again.
const MAX_TAKEN_BACK: usize = 5;

/// What the poll thread works with.
pub(crate) struct PollThread {
    pub(crate) blueprint: Blueprint,
    pub(crate) polling: Polling,
    /// Nobody waits for the group to be left any more: what has our name now may be our successor.
    pub(crate) abandoned: StopSignal,
}

impl PollThread {
    /// Polls until told to leave, and leaves.
    pub(crate) fn run(self, mut member: Member) {
        for taken_back in 0.. {
            // The first one waits until it is told to join.
            let poller = Poller::new(member, &self.polling, taken_back > 0);
            let (why, consumer) = match poller.run() {
                End::Left { member } => return self.left(member),
                End::PlaceTaken { why, consumer } => (why, consumer),
            };
            let next = match &self.polling.name {
                Some(name) if taken_back == MAX_TAKEN_BACK => {
                    let failure = name.refused(&consumer, why);
                    drop(consumer);
                    Err(failure)
                }
                _ => {
                    drop(consumer);
                    self.take_back(why)
                }
            };
            match next {
                Ok(next) => member = next,
                Err(failure) => {
                    tracing::error!(?failure, "the consumer group cannot be joined");
                    self.blueprint.context.fail(failure);
                    return self.wait_until_told_to_leave();
                }
            }
        }
    }

    /// The group is left, but perhaps not for good.
    fn left(&self, member: Option<String>) {
        let outlasts_us = place::outlasts_its_member(&self.blueprint.config);
        let Some(member) = member.filter(|_| outlasts_us && !self.abandoned.is_stopped()) else {
            return;
        };
        let deadline = Instant::now() + PLACE_PATIENCE;
        let given_up = self
            .stand_in(Some(&member), deadline)
            .and_then(|stand_in| stand_in.leave(deadline, &self.abandoned));
        match given_up {
            Ok(()) => {}
            Err(PlaceError::Twin(why)) => tracing::info!(why, "somebody has taken over from us"),
            Err(error) => {
                tracing::warn!(%error, "our partitions wait for the session time-out of the group");
            }
        }
    }

    /// A consumer in the place that another had.
    fn take_back(&self, why: String) -> Result<Member, SessionFailure> {
        tracing::info!("the group keeps the place of an earlier process of our name: taking it");
        let stand_in = match self.stand_in(None, Instant::now() + PLACE_PATIENCE) {
            Ok(stand_in) => Some(stand_in),
            // It lives, and asked for its place again. The younger of two twins is the one that is meant, as with the
            // transactional id: try on.
            Err(PlaceError::Twin(_)) => None,
            Err(PlaceError::Failed(error)) => {
                return Err(SessionFailure::Broken(format!(
                    "{why}: {error}; the broker frees it after its group.consumer.session.timeout.ms"
                )));
            }
        };
        let member = self.blueprint.create().and_then(|member| {
            subscribe(&member.consumer, &self.blueprint.topics)?;
            Ok(member)
        });
        // After that: it takes a while to be closed, and nobody is to come in between.
        drop(stand_in);
        member.map_err(|error| SessionFailure::Broken(error.to_string()))
    }

    fn stand_in(&self, only_from: Option<&str>, deadline: Instant) -> Result<StandIn, PlaceError> {
        let Blueprint { config, topics, .. } = &self.blueprint;
        StandIn::take(config, topics, only_from, deadline, &self.abandoned)
    }

    fn wait_until_told_to_leave(&self) {
        loop {
            match self.polling.commands.recv_timeout(Duration::MAX) {
                Ok(Command::Leave) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
