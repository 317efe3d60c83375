//! The poll thread from its beginning to its end: one consumer, or another in its stead when the group still keeps the
//! place of a killed process that had our name. Run by the session; it ends when the group has been left.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use orchestrator_core::ports::SessionFailure;

use super::member::{Blueprint, Member};
use super::place::{self, PlaceError, StandIn};
use super::poll::{Command, End, Poller, Polling};
use super::stop::StopSignal;

/// How long a place may take to be taken, and to be given up.
const PLACE_PATIENCE: Duration = Duration::from_secs(4);
/// So often a place is taken back. Who has it again each time lives.
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
            let why = match Poller::new(member, &self.polling).run() {
                End::Left { had_a_place } => return self.left(had_a_place),
                End::PlaceTaken(why) => why,
            };
            match self.take_back(why, taken_back) {
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
    fn left(&self, had_a_place: bool) {
        let outlasts_us = place::outlasts_its_member(&self.blueprint.config);
        if !had_a_place || !outlasts_us || self.abandoned.is_stopped() {
            return;
        }
        let deadline = Instant::now() + PLACE_PATIENCE;
        let given_up = self
            .stand_in(deadline)
            .and_then(|stand_in| stand_in.leave(deadline, &self.abandoned));
        if let Err(error) = given_up {
            tracing::warn!(%error, "our partitions wait for the session time-out of the group");
        }
    }

    /// A consumer in the place that another had.
    fn take_back(&self, why: String, taken_back: usize) -> Result<Member, SessionFailure> {
        if taken_back == MAX_TAKEN_BACK {
            return Err(SessionFailure::Fenced(why));
        }
        tracing::info!("the group keeps the place of an earlier process of our name: taking it");
        let stand_in = match self.stand_in(Instant::now() + PLACE_PATIENCE) {
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
        let member = self.blueprint.create();
        // After that: it takes a while to be closed, and nobody is to come in between.
        drop(stand_in);
        member.map_err(|error| SessionFailure::Broken(error.to_string()))
    }

    fn stand_in(&self, deadline: Instant) -> Result<StandIn, PlaceError> {
        let Blueprint { config, topics, .. } = &self.blueprint;
        StandIn::take(config, topics, deadline, &self.abandoned)
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
