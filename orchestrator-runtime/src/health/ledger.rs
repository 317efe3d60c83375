//! What health knows of the failure ledger: what it was told, or whom to ask. Read with each snapshot, so that it is
//! never stale.

use std::sync::Arc;

use super::view::LedgerState;
use crate::tracker::{DbState, LedgerCounters, LedgerHealth};

/// What is known of the ledger, or who knows.
#[derive(Debug)]
pub(super) enum Ledger {
    Told(LedgerState),
    Watched(Arc<LedgerHealth>),
}

impl Default for Ledger {
    fn default() -> Self {
        Self::Told(LedgerState::default())
    }
}

impl Ledger {
    pub(super) fn view(&self) -> (LedgerState, Option<LedgerCounters>) {
        match self {
            Self::Told(state) => (state.clone(), None),
            Self::Watched(health) => {
                let state = match health.state() {
                    DbState::Up => LedgerState::Up,
                    DbState::Degraded { reason } => LedgerState::Degraded { reason },
                };
                (state, Some(health.counters()))
            }
        }
    }
}
