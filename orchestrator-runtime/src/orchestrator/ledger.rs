//! Starts the failure ledger of a run, once it is known which cluster this is. Called by the run; it must not give up
//! on a broker or a database that is away.

use std::sync::Arc;
use std::time::Instant;

use orchestrator_core::{FailureTracker, LedgerIdentity};

use super::outcome::RunError;
use crate::config::Config;
use crate::health::{Health, LedgerState};
use crate::kafka::cluster::cluster_id;
use crate::kafka::ports::{SAY_EVERY, SAY_FIRST, broker_is_away};
use crate::tracker::LedgerPlan;

/// Starts the ledger, whose rows say of which cluster they are. A database that is down is no error, and a broker that is
/// down is waited for: without one there is nothing to write.
pub(super) async fn start(
    plan: LedgerPlan,
    config: &Config,
    health: &Health,
) -> Result<Arc<dyn FailureTracker>, RunError> {
    let mut identity = LedgerIdentity {
        cluster_id: String::new(),
        consumer_group: config.kafka.group_id.clone(),
    };
    if plan.writes_rows() {
        let reason = "not opened yet: it waits for a broker to say which cluster this is \
                      (ORCH_BOOTSTRAP_SERVERS)"
            .to_owned();
        health.ledger(LedgerState::Degraded { reason });
        let mut asking = std::pin::pin!(cluster_id(config));
        let mut patience = SAY_FIRST;
        identity.cluster_id = loop {
            match tokio::time::timeout(patience, &mut asking).await {
                Ok(answer) => break answer.map_err(RunError::Ledger)?,
                Err(_) => broker_is_away(config, health, "no broker answers yet".to_owned()),
            }
            patience = SAY_EVERY;
        };
        health.broker_reachable(Instant::now());
        if identity.cluster_id.is_empty() {
            tracing::warn!(
                "the brokers tell no cluster id: one ledger must not be shared by several clusters"
            );
        }
    }
    let ledger = plan.start(identity).await;
    match ledger.health {
        None => health.ledger(LedgerState::Off),
        Some(watched) => health.watch_ledger(watched),
    }
    Ok(ledger.tracker)
}
