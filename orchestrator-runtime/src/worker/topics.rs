//! What the worker remembers of the topics it writes to, so that no output is sent that would be refused.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator_core::Topic;
use orchestrator_core::ports::{Committer, TopicFacts};
use tokio::time::Instant;

/// Limits of topics change seldom; a missing topic may be created any moment.
const KNOWN_FOR: Duration = Duration::from_secs(60);
const MISSING_FOR: Duration = Duration::from_secs(1);

/// The answer about one topic; an error if the broker could not be asked.
pub(crate) type Answer = Result<TopicFacts, String>;

#[derive(Debug, Default)]
pub(crate) struct Topics {
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
        if let Some((answer, at)) = self.answers.get(topic) {
            let good_for = match answer {
                Ok(TopicFacts::Known { .. }) => KNOWN_FOR,
                _ => MISSING_FOR,
            };
            if now - *at < good_for {
                return answer.clone();
            }
        }
        let answer = committer.topic_facts(topic).await;
        // An outage does not make a known limit unknown.
        if answer.is_err()
            && let Some((known @ Ok(TopicFacts::Known { .. }), _)) = self.answers.get(topic)
        {
            return known.clone();
        }
        self.answers.insert(topic.clone(), (answer.clone(), now));
        answer
    }

    /// Forgets a topic, because the broker says otherwise.
    pub(crate) fn forget(&mut self, topic: &Topic) {
        self.answers.remove(topic);
    }
}
