//! How steadily a group passes what it is given, whatever happens to its members.

use std::time::{Duration, Instant};

use orchestrator_testkit::admin::Admin;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::scene::Scene;

const EVERY: Duration = Duration::from_millis(200);
/// No shorter time is judged.
const WINDOW: Duration = Duration::from_secs(5);

/// Watches what a group has committed of the first source.
pub(crate) struct Pace {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<Vec<(Instant, i64)>>,
}

impl Pace {
    /// From now on.
    pub(crate) fn watch(scene: &Scene) -> Self {
        let (admin, group) = (Admin::new(&scene.bootstrap).unwrap(), scene.group.clone());
        let source = scene.sources[0].clone();
        let (stop, mut stopped) = oneshot::channel();
        let watching = tokio::spawn(async move {
            let mut seen = Vec::new();
            // Also if nobody is left to stop it.
            while tokio::time::timeout(EVERY, &mut stopped).await.is_err() {
                if let Ok(committed) = admin.committed(&group, &source).await {
                    seen.push((Instant::now(), committed.values().sum()));
                }
            }
            seen
        });
        Self { stop, watching }
    }

    /// The records that were passed in the worst five seconds, as a percentage of what comes at this rate.
    pub(crate) async fn slowest_percent(self, per_second: u32) -> i64 {
        self.stop.send(()).unwrap();
        let seen = self.watching.await.unwrap();
        let passed = seen.iter().filter_map(|(since, before)| {
            let later = seen.iter().find(|(at, _)| *at - *since >= WINDOW);
            later.map(|(_, after)| after - before)
        });
        let slowest = passed.min();
        let slowest = slowest.expect("void: it was watched for too short a time");
        slowest * 100 / (WINDOW.as_secs() as i64 * i64::from(per_second))
    }
}
