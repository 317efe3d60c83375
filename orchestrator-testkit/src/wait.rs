//! Waiting for a condition instead of sleeping.
//!
//! Used by tests of every crate. It must never wait without a deadline.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// The condition did not come.
#[derive(Debug, thiserror::Error)]
#[error("waited {deadline:?} in vain: {what}")]
pub struct TimedOut {
    what: String,
    deadline: Duration,
}

/// Asks until the answer is yes. The last question may take longer than the deadline.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use orchestrator_testkit::wait;
/// use std::time::Duration;
/// let mut asked = 0;
/// let third = async || { asked += 1; asked == 3 };
/// wait::until("third time lucky", Duration::from_secs(5), third).await.unwrap();
/// # }
/// ```
pub async fn until(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Result<(), TimedOut> {
    let give_up = Instant::now() + deadline;
    while !condition().await {
        if Instant::now() >= give_up {
            return Err(TimedOut {
                what: what.to_owned(),
                deadline,
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
