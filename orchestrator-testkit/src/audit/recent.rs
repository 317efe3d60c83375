//! The records that were settled last, so that a copy that comes late is known for what it is. Bounded: the oldest is
//! forgotten.

use std::collections::{HashMap, VecDeque};

use super::identity::Id;

/// What is remembered of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub(super) lane: u32,
    pub(super) offset: i64,
    pub(super) outputs: u32,
    pub(super) failed: bool,
}

/// The last so many.
#[derive(Debug)]
pub(super) struct Recent {
    most: usize,
    known: HashMap<Id, Settled>,
    order: VecDeque<Id>,
}

impl Recent {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn add(&mut self, id: Id, settled: Settled) {
        if self.most == 0 {
            return;
        }
        if self.order.len() == self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(id, settled);
        self.order.push_back(id);
    }

    pub(super) fn find(&self, id: Id) -> Option<&Settled> {
        self.known.get(&id)
    }
}
