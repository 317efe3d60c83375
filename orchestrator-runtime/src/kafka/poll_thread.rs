//! The poll thread from its beginning to its end: one consumer, or another in its stead when the group still keeps the
//! place of a killed process that had our name. Run by the session; it ends when the group has been left.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use orchestrator_core::ports::SessionFailure;

use super::member::{Blueprint, Member};
use super::place::{self, PlaceError};
use super::poll::{Command, End, Poller, Polling};
use super::stop::StopSignal;

/// How long a place may take to be given up.
const PLACE_PATIENCE: Duration = Duration::from_secs(4);
/// So often a place is taken back. Who has it again each time lives.
const MAX_TAKEN_BACK: usize = 3;

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
            match Poller::new(member, &self.polling).run() {
                End::Left { had_a_place } => return self.left(had_a_place),
                End::PlaceTaken(text) => match self.take_back(text, taken_back) {
                    Ok(next) => member = next,
                    Err(failure) => {
                        tracing::error!(?failure, "the consumer group cannot be joined");
                        self.blueprint.context.fail(failure);
                        return self.wait_until_told_to_leave();
                    }
                },
            }
        }
    }

    /// The group is left, but perhaps not for good.
    fn left(&self, had_a_place: bool) {
        if !had_a_place
            || !place::outlasts_its_member(&self.blueprint.config)
            || self.abandoned.is_stopped()
        {
            return;
        }
        if let Err(error) = self.give_up_the_place() {
            tracing::warn!(%error, "our partitions wait for the session time-out of the group");
        }
    }

    fn take_back(&self, text: String, taken_back: usize) -> Result<Member, SessionFailure> {
        if taken_back == MAX_TAKEN_BACK {
            return Err(SessionFailure::Fenced(text));
        }
        tracing::info!(
            "the group keeps the place of an earlier process of our name; taking it back"
        );
        self.give_up_the_place().map_err(|error| match error {
            PlaceError::Twin(text) => SessionFailure::Fenced(text),
            PlaceError::Failed(error) => SessionFailure::Broken(format!(
                "{text}: {error}; the broker frees it after its group.consumer.session.timeout.ms"
            )),
        })?;
        let member = self.blueprint.create();
        member.map_err(|error| SessionFailure::Broken(error.to_string()))
    }

    fn give_up_the_place(&self) -> Result<(), PlaceError> {
        let Blueprint { config, topics, .. } = &self.blueprint;
        place::give_up(config, topics, PLACE_PATIENCE, &self.abandoned)
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
