//! What the records of a run are like: nearly all are good. The same seed gives them the same nature.

use std::time::Duration;

use orchestrator_runtime::core::{Output, Record, SourcePartition, TransformError};

use super::producer::REFUSED;

/// What a record does to whoever transforms it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Good,
    Poison,
    /// It fails transiently so often.
    Fails(u32),
    /// Its output is refused by the broker.
    Refused,
    /// Its first attempt takes longer than it may.
    Hangs,
    /// While the infrastructure is away it fails with it.
    Dependent,
}

pub(crate) fn nature(seed: u64, partition: &SourcePartition, offset: i64) -> Nature {
    let own = seed ^ (offset as u64) << 8 ^ partition.partition as u64;
    match fastrand::Rng::with_seed(own).u32(0..200) {
        0..=9 => Nature::Poison,
        10..=39 => Nature::Fails(1),
        40..=45 => Nature::Fails(2),
        46..=49 => Nature::Refused,
        50 => Nature::Hangs,
        51..=70 => Nature::Dependent,
        _ => Nature::Good,
    }
}

/// The infrastructure is away for a while.
fn is_away(since_start: Duration, seed: u64) -> bool {
    let from = Duration::from_millis(seed % 300);
    (from..from + Duration::from_millis(400)).contains(&since_start)
}

pub(crate) async fn transform(
    record: Record,
    attempt: u32,
    seed: u64,
    start: tokio::time::Instant,
) -> Result<Output, TransformError> {
    let nature = nature(seed, record.partition(), record.offset());
    if seed.is_multiple_of(3) || nature == Nature::Hangs {
        let takes = match nature {
            Nature::Hangs if attempt == 1 => 60_000,
            _ => record.offset() as u64 % 40,
        };
        tokio::time::sleep(Duration::from_millis(takes)).await;
    }
    match nature {
        Nature::Poison => Err(TransformError::permanent("poison")),
        Nature::Fails(times) if attempt <= times => Err(TransformError::transient("not yet")),
        Nature::Refused => Ok(Output::new(REFUSED)),
        Nature::Dependent if is_away(start.elapsed(), seed) => {
            Err(TransformError::infrastructure("away"))
        }
        _ => Ok(Output::new("v")),
    }
}
