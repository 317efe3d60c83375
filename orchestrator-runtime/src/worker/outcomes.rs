//! What comes out of the transformer, is tried again, or is refused by the broker after all. Part of the worker.

use std::collections::BTreeSet;

use orchestrator_core::ports::{Committer, Session, TopicFacts, UnitSlice};
use orchestrator_core::{
    FailureClass, HoldReason, SourcePartition, Stage, Topic, TransformError, Transformer,
};
use tokio::time::Instant;

use super::settings::WorkerObserver;
use super::stage::JobDone;
use super::{Worker, judge};

impl<S, C, T, O> Worker<S, C, T, O>
where
    S: Session,
    C: Committer,
    T: Transformer,
    O: WorkerObserver,
{
    /// Tries again what is due.
    pub(super) fn start_due(&mut self) {
        let now = Instant::now().into_std();
        let mut due = Vec::new();
        let alone = self.searches.alone(&self.lanes).cloned();
        let theirs = |partition: &SourcePartition| alone.as_ref().is_none_or(|it| it == partition);
        for (partition, lane) in self.lanes.iter_mut().filter(|(it, _)| theirs(it)) {
            if let Some(stop) = lane.end_stop(now) {
                tracing::info!(%partition, reason = stop.reason.as_str(), "trying a stopped partition again");
            }
            due.extend(
                lane.start_due(now)
                    .into_iter()
                    .map(|waiting| ((lane.epoch(), lane.life()), waiting)),
            );
        }
        for (life, waiting) in due {
            self.observer.retried();
            let record = waiting.record.clone();
            let (partition, offset) = (record.partition().clone(), record.offset());
            self.stage
                .start(partition, life, offset, vec![record], Some(waiting));
        }
    }

    /// Takes back what the transformer has done, all of it that is there.
    pub(super) async fn transformed(&mut self, done: JobDone) {
        self.judge_job(done).await;
        while let Some(done) = self.stage.try_done() {
            self.judge_job(done).await;
        }
    }

    pub(super) async fn judge_job(&mut self, done: JobDone) {
        self.observer.transformed(done.took);
        let Some(lane) = self
            .lanes
            .get_mut(&done.partition)
            .filter(|lane| (lane.epoch(), lane.life()) == (done.epoch, done.life))
        else {
            return;
        };
        let Some(results) = done.results else {
            // Nothing is known of its records: they are read again.
            let error = format!("the transform of {} broke down", done.partition);
            tracing::error!(offset = done.from, "{error}; its records are read again");
            lane.rewind(lane.given_out());
            self.stop_lanes(
                &BTreeSet::from([done.partition]),
                HoldReason::Infrastructure,
                &error,
            );
            return;
        };
        let limits = self
            .judge
            .limits(&mut self.committer, &self.settings, &results)
            .await;
        let (mut failing, mut transient) = (0, 0);
        for error in results
            .iter()
            .filter_map(|(_, result)| result.as_ref().err())
        {
            failing += 1;
            transient += usize::from(error.class() == FailureClass::Transient);
            self.observer.failed(error.class());
        }
        // Only a transient failure can meet the brake, and looking at all lanes has its price.
        let others = results.len() - failing;
        let brake = transient > 0
            && judge::brake(
                &self.settings.policy,
                self.lanes.values(),
                transient,
                others,
            );
        let Some(lane) = self.lanes.get_mut(&done.partition) else {
            return;
        };
        let judge = &mut self.judge;
        let settings = &self.settings;
        let again = done.again.as_ref();
        let tried = results
            .into_iter()
            .map(|result| judge.judge(settings, &limits, brake, result, again));
        match again {
            None => lane.transformed(done.from, tried),
            Some(_) => {
                for tried in tried {
                    lane.retried(done.from, tried);
                }
            }
        }
    }

    /// The broker refused an output though it was checked: narrow down to the one record, which is then to blame.
    pub(super) async fn refused(
        &mut self,
        slice: UnitSlice,
        error: String,
        topic: &Topic,
        permanent: bool,
    ) {
        self.judge.topics.forget(topic);
        let answer = self.judge.topics.look_up(&mut self.committer, topic).await;
        let topic_is_well = matches!(answer, Ok(TopicFacts::Known { .. }));
        let configured = self.settings.target_topic.as_ref() == Some(topic);
        let count = slice.done.len();
        let partition = slice.partition.clone();
        let only = slice.done.first().map(|done| done.record.clone());
        // A record that is refused each time waits longer each time.
        let again = only.as_ref().and_then(|record| {
            let lane = self.lanes.get(&partition)?;
            lane.tried_before(record.offset()).cloned()
        });
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        lane.put_back(slice);
        lane.narrow(count);
        let Some(record) = only.filter(|_| count == 1) else {
            return;
        };
        let blame = permanent && (topic_is_well || !configured);
        let text = format!("the broker refuses an output to {topic}: {error}");
        let error = if blame {
            TransformError::permanent(text)
        } else {
            TransformError::infrastructure(text)
        };
        let error = error.at_stage(Stage::Output);
        self.observer.failed(error.class());
        let results = [(record.clone(), Err(error))];
        let limits = self
            .judge
            .limits(&mut self.committer, &self.settings, &results)
            .await;
        let [(_, Err(error))] = &results else { return };
        let tried = self.judge.judge_failure(
            &self.settings,
            &limits,
            false,
            &record,
            error,
            again.as_ref(),
        );
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.replace_first(tried);
        }
    }
}
