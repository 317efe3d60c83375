//! The poll thread: owns the consumer and polls on whatever happens, so that the group never evicts us. Moves records
//! from librdkafka into the gather, and does what the worker asks. It never waits for the worker: when the gather is
//! full, records stay in librdkafka's prefetch while rebalances are served as ever.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use orchestrator_core::SourcePartition;
use orchestrator_core::ports::{Epoch, SessionFailure};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::asker::{Ask, Attempt, topic_problem};
use super::ffi::{self, Hand};
use super::gather::{Gather, Gathered, Resume};
use super::member::{Member, subscribe};
use super::offsets::{Start, listed};
use super::place::Name;
use super::rebalance::Context;
use super::seek::go_to;
use super::session::Limiter;
use crate::clock::WallClock;

/// So many records are gathered before the worker may take them and other things are looked after.
const AT_A_TIME: usize = 256;
/// The longest sleep: so late is noticed that fresh group metadata is wanted.
const TICK: Duration = Duration::from_millis(20);
/// How often a member in the protocol of KIP-848 reports. The broker asks for every 5 s by default, and it is with a
/// report that a member hears of its partitions: so late would another one take over what we gave up.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the partitions may take to be handed back when we leave.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// What the worker (and the helper thread) asks of the poll thread.
#[derive(Debug)]
pub(crate) enum Command {
    Pause(SourcePartition, Epoch),
    Resume(SourcePartition, Epoch, i64, Resume),
    Started(SourcePartition, Attempt, Start),
    /// Join the group.
    Join,
    /// The session cannot go on.
    Fail(SessionFailure),
    Leave,
}

/// How polling came to its end.
pub(crate) enum End {
    /// We were told to leave, and did so as far as that could be done; the id that we had as a member.
    Left { member: Option<String> },
    /// The broker says that somebody has our place in the group, before it ever told us that we had it.
    PlaceTaken {
        why: String,
        consumer: Arc<BaseConsumer<Context>>,
    },
}

/// How a session polls.
pub(crate) struct Polling {
    pub(crate) commands: Receiver<Command>,
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) topics: Vec<String>,
    /// Whether the group is one of KIP-848.
    pub(crate) consumer_protocol: bool,
    /// Our place in the group, if we have a name.
    pub(crate) name: Option<Name>,
}

/// The state of the poll thread, with one consumer.
pub(crate) struct Poller<'a> {
    /// Before the consumer, whose records it holds: fields are dropped in order.
    hand: Hand,
    consumer: Arc<BaseConsumer<Context>>,
    gather: Arc<Gather>,
    polling: &'a Polling,
    /// Whether the group is to be joined.
    subscribed: bool,
    /// When the broker was last reported to out of turn.
    reported: Instant,
    /// Looked at in each turn.
    wall_clock: WallClock,
    /// Whether the group has ever taken us in.
    joined: bool,
    /// What the broker said of our place.
    place_taken: Option<String>,
    /// The turn in which the hand took what is in it.
    hand_turn: u64,
    /// The slot of the last record's partition, in that turn.
    last: Option<((usize, i32), u64, Option<usize>)>,
    /// When the next permit can be had.
    permit_at: Option<Instant>,
    /// Seeks that did not succeed yet.
    again: Vec<Command>,
}

/// Something in the hand that is not a record.
enum Odd {
    PositionLost(SourcePartition),
    Error(String, RDKafkaErrorCode, String),
}

impl<'a> Poller<'a> {
    /// `subscribed`: the consumer is joining already.
    pub(crate) fn new(member: Member, polling: &'a Polling, subscribed: bool) -> Self {
        let Member { queue, consumer } = member;
        consumer
            .context()
            .put_records_queue(Some(Arc::clone(&queue)));
        Self {
            hand: Hand::new(queue),
            gather: Arc::clone(&consumer.context().gather),
            consumer,
            polling,
            subscribed,
            reported: Instant::now(),
            wall_clock: WallClock::now(),
            joined: false,
            place_taken: None,
            hand_turn: 0,
            last: None,
            permit_at: None,
            again: Vec::new(),
        }
    }

    /// Runs until it is told to leave, or cannot join.
    pub(crate) fn run(mut self) -> End {
        self.gather.i_am_the_poller();
        let mut polled = Instant::now();
        while self.obey() {
            self.context().status.came_round();
            if ffi::waiting_events(&self.consumer) > 0 || polled.elapsed() >= TICK {
                self.serve();
                polled = Instant::now();
                if let Some(why) = self.place_taken.take() {
                    let consumer = Arc::clone(&self.consumer);
                    return End::PlaceTaken { why, consumer };
                }
            }
            if !self.fill() {
                let until_permit = self.permit_at.map_or(TICK, |at| {
                    at.saturating_duration_since(Instant::now()).min(TICK)
                });
                thread::park_timeout(until_permit);
            }
        }
        let member = match self.consumer.client().fatal_error() {
            None => ffi::member_id(&self.consumer),
            Some(_) => None,
        };
        self.leave();
        End::Left { member }
    }

    /// Serves rebalances, errors and logs, and refreshes the group metadata if that is wanted: afterwards, so that it
    /// is never fresher than what the callbacks know.
    fn serve(&mut self) {
        loop {
            match self.consumer.poll(Duration::ZERO) {
                None => {}
                Some(Ok(message)) => {
                    // All partitions' records go to our own queue; to go on would be to lose this one.
                    let error = format!("a record came by the wrong queue: {message:?}");
                    self.context().fail(SessionFailure::Broken(error));
                }
                Some(Err(error)) => self.consumer_error(&error),
            }
            if ffi::waiting_events(&self.consumer) == 0 {
                break;
            }
        }
        if self.context().membership.refresh_wanted() {
            self.context().refresh(&self.consumer);
            // Nobody left to be asked: the session has ended.
            self.context().asks.send(Ask::Place).unwrap_or_default();
        }
        self.context().ask_what_waited();
        if let Err(failure) = self.wall_clock.look() {
            self.context().fail(failure);
        }
        self.joined = self.joined || ffi::is_member(&self.consumer);
        if self.subscribed
            && self.polling.consumer_protocol
            && self.reported.elapsed() >= REPORT_EVERY
        {
            self.reported = Instant::now();
            if let Err(error) = subscribe(&self.consumer, &self.polling.topics) {
                // It reports when the broker expects it to; a fatal error comes with a poll.
                tracing::debug!(%error, "cannot report to the broker out of turn");
            }
        }
    }

    fn consumer_error(&mut self, error: &KafkaError) {
        let Some((code, text)) = self.consumer.client().fatal_error() else {
            // Already logged by the context. Nothing else ends a session: librdkafka tries on.
            return;
        };
        let failure = match code {
            RDKafkaErrorCode::UnreleasedInstanceId if !self.joined => {
                self.place_taken = Some(text);
                return;
            }
            RDKafkaErrorCode::FencedInstanceId => SessionFailure::Fenced(text),
            // What one hears in KIP-848 who was put out and asks for its place again.
            RDKafkaErrorCode::UnreleasedInstanceId => match &self.polling.name {
                Some(name) => name.refused(&self.consumer, text),
                None => SessionFailure::Fenced(text),
            },
            _ => SessionFailure::Broken(text),
        };
        tracing::error!(%error, ?failure, "the consumer cannot go on");
        self.context().fail(failure);
    }

    /// Moves records into the gather as far as there are any and there is room; whether it is worth coming back at
    /// once.
    fn fill(&mut self) -> bool {
        if self.permit_at.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        self.permit_at = None;
        let gather = Arc::clone(&self.gather);
        let mut odd = Vec::new();
        let mut state = gather.lock();
        let was_empty = state.is_empty();
        let mut turns_left = AT_A_TIME;
        while state.room() > 0 && turns_left > 0 {
            if self.hand.is_empty() {
                self.hand_turn = state.turn();
            }
            let Some(message) = self.hand.first() else {
                break;
            };
            turns_left -= 1;
            let slot = slot(&mut self.last, &state, &message, self.hand_turn);
            match (message.error(), slot) {
                (None, Some(slot)) => {
                    if let Some(limiter) = &self.polling.limiter
                        && let Err(not_until) = limiter.check()
                    {
                        let wait = not_until.wait_time_from(DefaultClock::default().now());
                        self.context().status.rate_limited(wait);
                        self.permit_at = Some(Instant::now() + wait);
                        break;
                    }
                    state.append(
                        slot,
                        message.offset(),
                        message.timestamp_ms(),
                        message.key(),
                        message.value(),
                        message.headers(),
                    );
                }
                (Some(RDKafkaErrorCode::PartitionEOF), Some(slot)) => {
                    state.reached_end(slot, message.offset());
                }
                (Some(RDKafkaErrorCode::AutoOffsetReset), Some(_)) => odd.push(Odd::PositionLost(
                    SourcePartition::new(message.topic(), message.partition()),
                )),
                (Some(code), Some(_)) => odd.push(Odd::Error(
                    message.topic().to_owned(),
                    code,
                    message.error_text(),
                )),
                // Of a partition that is paused, was put elsewhere, or is no longer ours.
                (_, None) => {}
            }
            self.hand.pass();
        }
        let arrived = was_empty && !state.is_empty();
        let go_on = turns_left == 0;
        drop(state);
        if arrived {
            gather.arrived.notify_one();
        }
        for odd in odd {
            self.report(odd);
        }
        go_on
    }

    fn report(&self, odd: Odd) {
        match odd {
            Odd::PositionLost(partition) => {
                tracing::warn!(%partition, "the broker refuses to read from the partition's position");
                self.context().position_lost(&partition);
            }
            Odd::Error(topic, code, text) => {
                let status = &self.context().status;
                status.log(code, &format!("{}: {text}", topic_problem(&topic, code)));
                if self.context().asks.send(Ask::Probe).is_err() {
                    tracing::error!("the session's helper thread has ended");
                }
            }
        }
    }

    /// Does what was asked; whether to go on.
    fn obey(&mut self) -> bool {
        for command in std::mem::take(&mut self.again) {
            self.execute(command);
        }
        loop {
            match self.polling.commands.try_recv() {
                Ok(Command::Leave) => return false,
                Ok(command) => self.execute(command),
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match &command {
            Command::Pause(partition, epoch) => {
                if self.gather.lock().is_paused(partition, *epoch) {
                    let result = listed([partition], Offset::Invalid)
                        .and_then(|list| self.consumer.pause(&list));
                    if let Err(error) = result {
                        // Its records are dropped anyway, so this only costs.
                        tracing::warn!(%partition, %error, "cannot pause");
                    }
                }
            }
            Command::Resume(partition, epoch, at, Resume::Seek) => {
                if !self.gather.lock().is_seeking(partition, *epoch, *at) {
                    return;
                }
                match go_to(&self.consumer, partition, *at) {
                    Ok(()) => {
                        self.gather.lock().sought(partition, *epoch, *at);
                    }
                    Err(error) => {
                        tracing::warn!(%partition, at, %error, "cannot seek; trying again");
                        self.again.push(command);
                    }
                }
            }
            Command::Resume(partition, _, _, Resume::LookAgain) => {
                self.context().position_lost(partition);
            }
            Command::Started(partition, attempt, start) => {
                let context = self.context();
                if !Context::is_wanted(&context.pending, partition, *attempt) {
                    return;
                }
                let ready = match start {
                    Start::At { position, .. } => go_to(&self.consumer, partition, *position),
                    Start::Lost { .. } => Ok(()),
                };
                match ready {
                    Ok(()) => self.context().started(partition, *start),
                    Err(error) => {
                        tracing::warn!(%partition, %error, "cannot seek; trying again");
                        self.again.push(command);
                    }
                }
            }
            Command::Join if self.subscribed => {}
            Command::Join => match subscribe(&self.consumer, &self.polling.topics) {
                Ok(()) => self.subscribed = true,
                Err(error) => {
                    let error = format!("the source topics cannot be subscribed to: {error}");
                    self.context().fail(SessionFailure::Broken(error));
                }
            },
            Command::Fail(failure) => {
                tracing::error!(?failure, "the consumer cannot go on");
                self.context().fail(failure.clone());
            }
            Command::Leave => {}
        }
    }

    /// Hands the partitions back, within the usual revoke callback, and leaves the group. Only then may the consumer be
    /// closed: a named member that is closed before it has left stays in the group until its session time-out.
    fn leave(&self) {
        let deadline = Instant::now() + LEAVE_PATIENCE;
        self.consumer.unsubscribe();
        loop {
            let result = self.consumer.poll(Duration::from_millis(5));
            let fatal =
                matches!(result, Some(Err(_))) && self.consumer.client().fatal_error().is_some();
            if fatal || !ffi::is_member(&self.consumer) || Instant::now() > deadline {
                return;
            }
        }
    }

    fn context(&self) -> &Context {
        self.consumer.context()
    }
}

impl Drop for Poller<'_> {
    /// The queue must go before the consumer does.
    fn drop(&mut self) {
        self.context().put_records_queue(None);
        if thread::panicking() {
            let failure = SessionFailure::Broken("the poll thread panicked".to_owned());
            self.context().fail(failure);
        }
    }
}

/// The slot that takes a message, looked up once a run of messages of one partition.
fn slot(
    last: &mut Option<((usize, i32), u64, Option<usize>)>,
    state: &Gathered,
    message: &ffi::Message<'_>,
    hand_turn: u64,
) -> Option<usize> {
    let (key, turn) = (message.partition_key(), state.turn());
    let slot = match *last {
        Some((k, t, slot)) if k == key && t == turn => slot,
        _ => {
            let slot = state.find(message.topic(), message.partition());
            *last = Some((key, turn, slot));
            slot
        }
    };
    slot.filter(|slot| state.accepts(*slot, hand_turn))
}
