//! What the worker remembers of the topics it writes to, so that no output is sent that would be refused.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator_core::Topic;
use orchestrator_core::limits::Answer;
use orchestrator_core::ports::{Committer, TopicFacts};
use tokio::time::Instant;

/// Limits of topics change seldom; a missing topic may be created any moment.
const KNOWN_FOR: Duration = Duration::from_secs(60);
const MISSING_FOR: Duration = Duration::from_secs(1);
/// The worker stands still while a silent broker is asked, which takes seconds: not for every chunk of records.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// From so many on answers that are no longer good are dropped: records may name any topic.
const ANSWERS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Topics {
    /// Each with the time until which it is good.
    answers: BTreeMap<Topic, (Answer, Instant)>,
}

impl Topics {
    /// Looks the topic up unless the last answer is still good.
    pub(crate) async fn look_up<C: Committer>(
        &mut self,
        committer: &mut C,
        topic: &Topic,
    ) -> Answer {
        let now = Instant::now();
        if let Some((answer, until)) = self.answers.get(topic)
            && now < *until
        {
            return answer.clone();
        }
        let mut answer = committer.topic_facts(topic).await;
        let good_for = match &answer {
            Ok(TopicFacts::Known { .. }) => KNOWN_FOR,
            Ok(_) => MISSING_FOR,
            Err(_) => UNKNOWN_FOR,
        };
        // An outage does not make a known limit unknown.
        if answer.is_err()
            && let Some((known @ Ok(TopicFacts::Known { .. }), _)) = self.answers.get(topic)
        {
            answer = known.clone();
        }
        // From now on: the question may have taken long.
        let until = Instant::now() + good_for;
        if self.answers.len() >= ANSWERS_MAX {
            let now = Instant::now();
            self.answers.retain(|_, (_, until)| *until > now);
        }
        self.answers.insert(topic.clone(), (answer.clone(), until));
        answer
    }

    /// Forgets a topic, because the broker says otherwise.
    pub(crate) fn forget(&mut self, topic: &Topic) {
        self.answers.remove(topic);
    }
}
