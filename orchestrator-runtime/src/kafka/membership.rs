//! What the poll thread knows of the consumer group, as the one snapshot that the transaction thread works from:
//! group metadata, owned partitions with their epochs, and which of them a transaction is using right now.
//! Written by the poll thread (in and around rebalance callbacks), read by the transactor. It never calls Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orchestrator_core::SourcePartition;
use orchestrator_core::ports::Epoch;

/// A partition that is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its epoch.
    pub epoch: Epoch,
    /// The position it is read from in this epoch.
    pub start: i64,
}

/// Group metadata and owned partitions, taken together.
pub struct Snapshot<M> {
    /// The group metadata; none before the group was joined.
    pub metadata: Option<Arc<M>>,
    /// The partitions that are ours and whose position is known.
    pub owned: BTreeMap<SourcePartition, Owned>,
    /// How often metadata had been taken by then.
    pub taken: u64,
}

/// The group membership of one worker.
pub struct Membership<M> {
    state: Mutex<State<M>>,
    changed: Condvar,
    epochs: AtomicU64,
}

struct State<M> {
    metadata: Option<Arc<M>>,
    /// The member id that the group knows us by.
    member: Option<String>,
    owned: BTreeMap<SourcePartition, Owned>,
    /// Partitions in a revoke callback: what is under way may finish, nothing new begins.
    revoking: BTreeSet<SourcePartition>,
    /// Partitions of the transaction under way.
    in_use: BTreeSet<SourcePartition>,
    /// How often the metadata was taken.
    taken: u64,
    /// Whether the transactor asks for metadata taken afresh.
    refresh_wanted: bool,
}

impl<M> Default for Membership<M> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                metadata: None,
                member: None,
                owned: BTreeMap::new(),
                revoking: BTreeSet::new(),
                in_use: BTreeSet::new(),
                taken: 0,
                refresh_wanted: false,
            }),
            changed: Condvar::new(),
            epochs: AtomicU64::new(0),
        }
    }
}

/// The poll thread's side.
impl<M> Membership<M> {
    /// An epoch never used before.
    pub fn next_epoch(&self) -> Epoch {
        Epoch(self.epochs.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Takes note of fresh metadata: on entry to and exit from every rebalance callback, and when
    /// [`refresh_wanted`](Self::refresh_wanted) says so. Only ever taken on the poll thread, outside of the time
    /// between a rebalance and its callback, so that it never vouches for a partition that is somebody else's.
    pub fn refresh(&self, metadata: Option<M>) {
        let mut state = self.lock();
        state.metadata = metadata.map(Arc::new);
        state.taken += 1;
        state.refresh_wanted = false;
        drop(state);
        self.changed.notify_all();
    }

    /// The group knows us by this member id from now on. Gives whether it knew us by another before: what is owned as that
    /// one is lost, whether or not anybody has said so.
    pub fn known_as(&self, member: &str) -> bool {
        let mut state = self.lock();
        if state.member.as_deref() == Some(member) {
            return false;
        }
        state.member.replace(member.to_owned()).is_some()
    }

    /// Whether the transactor waits for [`refresh`](Self::refresh).
    pub fn refresh_wanted(&self) -> bool {
        self.lock().refresh_wanted
    }

    /// A partition is ours and is read from `start`. Replaces what was known of it: a new epoch voids the old one.
    pub fn own(&self, partition: SourcePartition, epoch: Epoch, start: i64) {
        let mut state = self.lock();
        state.revoking.remove(&partition);
        state.owned.insert(partition, Owned { epoch, start });
    }

    /// From within a revoke callback: waits until no transaction uses these partitions, but not beyond `patience`,
    /// then gives them up. Returns whether the transaction had ended by then; if not, the broker fences it.
    pub fn revoke(&self, partitions: &[SourcePartition], patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        state.revoking.extend(partitions.iter().cloned());
        let in_use = |state: &State<M>| partitions.iter().any(|p| state.in_use.contains(p));
        while in_use(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let ended = !in_use(&state);
        state.give_up(partitions);
        ended
    }

    /// Partitions that somebody else may own already: given up at once.
    pub fn lose(&self, partitions: &[SourcePartition]) {
        self.lock().give_up(partitions);
    }

    /// All partitions that are ours.
    pub fn owned(&self) -> BTreeMap<SourcePartition, Owned> {
        self.lock().owned.clone()
    }
}

/// The transactor's side.
impl<M> Membership<M> {
    /// Enters a transaction for `partitions`: from now on a revoke waits for [`leave`](Self::leave). What the
    /// snapshot does not show as owned must be left out; `again` says that the same work was entered before, which
    /// may go on while its partitions are being revoked.
    pub fn enter(&self, partitions: BTreeSet<SourcePartition>, again: bool) -> Snapshot<M> {
        let mut state = self.lock();
        let mut owned = state.owned.clone();
        owned.retain(|partition, _| again || !state.revoking.contains(partition));
        state.in_use = partitions
            .into_iter()
            .filter(|partition| owned.contains_key(partition))
            .collect();
        Snapshot {
            metadata: state.metadata.clone(),
            owned,
            taken: state.taken,
        }
    }

    /// Adds partitions to the transaction that was entered, all but those that are not ours or being revoked; gives what
    /// is ours.
    pub fn enter_too(
        &self,
        partitions: impl Iterator<Item = SourcePartition>,
    ) -> BTreeMap<SourcePartition, Owned> {
        let mut state = self.lock();
        let mut owned = state.owned.clone();
        owned.retain(|partition, _| !state.revoking.contains(partition));
        let partitions = partitions.filter(|partition| owned.contains_key(partition));
        state.in_use.extend(partitions);
        owned
    }

    /// Whether a partition is still ours in that epoch.
    pub fn owns(&self, partition: &SourcePartition, epoch: Epoch) -> bool {
        let state = self.lock();
        state
            .owned
            .get(partition)
            .is_some_and(|owned| owned.epoch == epoch)
    }

    /// The transaction has ended, one way or the other.
    pub fn leave(&self) {
        self.lock().in_use.clear();
        self.changed.notify_all();
    }

    /// Asks the poll thread for fresher metadata than a snapshot's, given how often it had been
    /// [taken](Snapshot::taken) by then, and waits for it, but not beyond `patience`. Returns at once if it has been
    /// taken since: in a revoke callback, which waits for the transaction, nobody would take it again.
    pub fn await_refresh(&self, taken: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        state.refresh_wanted |= state.taken == taken;
        while state.taken == taken {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // The state is consistent after every statement, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> State<M> {
    fn give_up(&mut self, partitions: &[SourcePartition]) {
        for partition in partitions {
            self.owned.remove(partition);
            self.revoking.remove(partition);
        }
    }
}

impl<M> fmt::Debug for Membership<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("owned", &self.lock().owned)
            .finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for Snapshot<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("joined", &self.metadata.is_some())
            .field("owned", &self.owned)
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn partition(n: i32) -> SourcePartition {
        SourcePartition::new("t", n)
    }

    fn two_owned() -> Membership<u32> {
        let membership = Membership::default();
        membership.refresh(Some(1));
        membership.own(partition(0), membership.next_epoch(), 10);
        membership.own(partition(1), membership.next_epoch(), 20);
        membership
    }

    #[test]
    fn a_revoke_waits_for_the_transaction_that_uses_the_partition() {
        let membership = Arc::new(two_owned());
        membership.enter([partition(0)].into(), false);
        // Not used: given up at once.
        assert!(membership.revoke(&[partition(1)], Duration::ZERO));
        let other = membership.clone();
        let revoke =
            std::thread::spawn(move || other.revoke(&[partition(0)], Duration::from_secs(60)));
        while !membership.lock().revoking.contains(&partition(0)) {
            std::thread::yield_now();
        }
        // It may be entered again, but not anew.
        assert!(
            membership
                .enter([partition(0)].into(), true)
                .owned
                .contains_key(&partition(0))
        );
        assert!(
            !membership
                .enter([partition(0)].into(), false)
                .owned
                .contains_key(&partition(0))
        );
        membership.enter([partition(0)].into(), true);
        membership.leave();
        assert!(revoke.join().unwrap());
        assert!(membership.owned().is_empty());
    }

    #[test]
    fn metadata_taken_since_the_snapshot_is_not_waited_for() {
        let membership = two_owned();
        let snapshot = membership.enter([partition(0)].into(), false);
        // The entry to a revoke callback, which then waits for the transaction.
        membership.refresh(Some(2));
        membership.await_refresh(snapshot.taken, Duration::from_secs(3600));
        assert!(!membership.refresh_wanted());
        let snapshot = membership.enter([partition(0)].into(), true);
        assert_eq!(snapshot.metadata.as_deref(), Some(&2));
        membership.await_refresh(snapshot.taken, Duration::ZERO);
        assert!(membership.refresh_wanted());
    }

    #[test]
    fn another_member_id_is_noticed_once() {
        let membership = two_owned();
        assert!(!membership.known_as("a"));
        assert!(!membership.known_as("a"));
        assert!(membership.known_as("b"));
        assert!(!membership.known_as("b"));
    }

    #[test]
    fn a_revoke_does_not_wait_for_ever() {
        let membership = two_owned();
        membership.enter([partition(0)].into(), false);
        assert!(!membership.revoke(&[partition(0)], Duration::from_millis(1)));
        assert!(!membership.owned().contains_key(&partition(0)));
    }

    #[test]
    fn a_new_epoch_voids_the_old_one() {
        let membership = two_owned();
        let old = membership.owned()[&partition(0)].epoch;
        let new = membership.next_epoch();
        membership.own(partition(0), new, 0);
        assert!(!membership.owns(&partition(0), old));
        assert!(membership.owns(&partition(0), new));
    }
}
