//! What topics allow: a record's outputs are checked against it before any is sent, since one that the broker refuses
//! costs its whole unit of work. Pure; called by the worker, which looks topics up, and by `testing`.

use crate::error::{Stage, TransformError};
use crate::output::Outputs;
use crate::ports::TopicFacts;
use crate::record::{Record, Topic};

/// What was answered about one topic; an error if the broker could not be asked.
pub type Answer = Result<TopicFacts, String>;

/// Refuses what the broker would refuse, as the record's own failure; a configured topic that is missing is not.
///
/// `target` is `ORCH_TARGET_TOPIC`; `answer` gives what is known of a topic that an output names, and of the target if
/// it is given `None`. A topic of which nothing is known allows everything.
pub fn check_outputs<'a>(
    record: &Record,
    outputs: &Outputs,
    max_outputs: usize,
    target: Option<&Topic>,
    answer: impl Fn(Option<&Topic>) -> Option<&'a Answer>,
) -> Result<(), TransformError> {
    let refuse = |error: TransformError| Err(error.at_stage(Stage::Output));
    if outputs.len() > max_outputs {
        return refuse(TransformError::permanent(format!(
            "{} outputs, more than {max_outputs} (ORCH_MAX_OUTPUTS_PER_RECORD)",
            outputs.len(),
        )));
    }
    for output in outputs.as_slice() {
        let chosen = output.topic().filter(|topic| Some(*topic) != target);
        let Some(topic) = chosen.or(target) else {
            return refuse(TransformError::permanent(
                "the output names no topic, and ORCH_TARGET_TOPIC is not set",
            ));
        };
        let missing = |what: &str| {
            let text = format!("the topic {topic} {what}");
            match chosen {
                None => TransformError::infrastructure(format!("{text} (ORCH_TARGET_TOPIC)")),
                Some(_) => TransformError::permanent(text),
            }
        };
        match answer(chosen) {
            Some(Ok(TopicFacts::Known { max_message_bytes })) => {
                let size = output.size_given(record);
                if size > *max_message_bytes {
                    return refuse(TransformError::permanent(format!(
                        "an output of {size} bytes is more than the {max_message_bytes} (max.message.bytes) that {topic} takes"
                    )));
                }
            }
            Some(Ok(TopicFacts::Missing)) => return refuse(missing("does not exist")),
            Some(Ok(TopicFacts::Forbidden)) => return refuse(missing("may not be written to")),
            Some(Err(error)) => {
                return refuse(TransformError::infrastructure(format!(
                    "the topic {topic} could not be looked up: {error}"
                )));
            }
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FailureClass::{self, Infrastructure, Permanent};
    use crate::output::Output;

    /// The class of the failure of an output of 100 bytes, or `None`, when this is known of its topic.
    fn class(output: Output, answer: Answer) -> Option<FailureClass> {
        let record = Record::builder("in", 0, 0).build();
        let target = Topic::from("out");
        let checked = check_outputs(&record, &output.into(), 1, Some(&target), |_| Some(&answer));
        let error = checked.err()?;
        assert_eq!(error.stage(), Stage::Output);
        Some(error.class())
    }

    fn to(topic: Option<&str>) -> Output {
        let output = Output::new(vec![0; 100]);
        match topic {
            Some(topic) => output.with_topic(topic),
            None => output,
        }
    }

    #[test]
    fn a_missing_topic_is_the_fault_of_who_named_it() {
        for facts in [TopicFacts::Missing, TopicFacts::Forbidden] {
            assert_eq!(class(to(None), Ok(facts)), Some(Infrastructure));
            assert_eq!(class(to(Some("out")), Ok(facts)), Some(Infrastructure));
            assert_eq!(class(to(Some("other")), Ok(facts)), Some(Permanent));
        }
        let unknown = Err("no answer".to_owned());
        assert_eq!(class(to(Some("other")), unknown), Some(Infrastructure));
    }

    #[test]
    fn what_is_too_large_is_the_records_fault() {
        let known = |max_message_bytes| Ok(TopicFacts::Known { max_message_bytes });
        for topic in [None, Some("out"), Some("other")] {
            assert_eq!(class(to(topic), known(100)), Some(Permanent));
            assert_eq!(class(to(topic), known(1000)), None);
        }
    }

    #[test]
    fn outputs_are_counted_and_need_a_topic() {
        let record = Record::builder("in", 0, 0).build();
        let check = |outputs: Vec<Output>| {
            let checked = check_outputs(&record, &outputs.into(), 1, None, |_| None);
            checked.map_err(|error| error.class())
        };
        assert_eq!(check(vec![to(Some("a"))]), Ok(()));
        assert_eq!(check(vec![to(Some("a")), to(Some("a"))]), Err(Permanent));
        assert_eq!(check(vec![to(None)]), Err(Permanent));
    }
}
