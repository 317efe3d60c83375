//! What must have come out of what went in: once each, in order, and nothing else. Used by every test of faults.
//! It never looks at the runtime, only at records as they lie in the topics.

use std::collections::{BTreeMap, HashMap};

use orchestrator_testkit::orders::expected_output;
use orchestrator_testkit::reader::ReadRecord;
use orchestrator_testkit::writer::Position;

/// At most so many findings are told one by one.
const TOLD_MAX: usize = 10;

/// What has to become of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// One output of this value, with the input's key. No two inputs have the same.
    Output(Vec<u8>),
    /// One dead letter, with the input's key and value.
    DeadLetter,
    /// Neither: it is held, or behind one that is.
    Nothing,
}

impl Fate {
    /// What the example app has to make of this value.
    pub(crate) fn of_order(value: &[u8]) -> Self {
        expected_output(value).map_or(Self::DeadLetter, |output| Self::Output(output.into()))
    }
}

/// A record that was written to a source topic.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) topic: String,
    pub(crate) at: Position,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) fate: Fate,
}

impl Input {
    /// Whether it is known where it lies: not of one that was sent again, and the broker had already (librdkafka then
    /// reports the offset -1001).
    fn is_placed(&self) -> bool {
        self.at.offset >= 0
    }
}

/// The next offsets of a group that has passed all inputs but those of which nothing has to become, by topic and
/// partition.
pub(crate) fn next_offsets(inputs: &[Input]) -> BTreeMap<String, BTreeMap<i32, i64>> {
    let mut next: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
    for input in inputs.iter().filter(|input| input.fate != Fate::Nothing) {
        let partitions = next.entry(input.topic.clone()).or_default();
        let next = partitions.entry(input.at.partition).or_default();
        *next = (*next).max(input.at.offset + 1);
    }
    next
}

/// Whether these outputs and dead letters are what these inputs have to become.
///
/// Order: outputs of one source partition that lie in one target partition, as all of one key do, are in the order of
/// their inputs; so are dead letters.
pub(crate) fn check(
    inputs: &[Input],
    outputs: &[ReadRecord],
    letters: &[ReadRecord],
) -> Result<(), String> {
    let mut findings = Findings::default();
    let mut by_output = HashMap::new();
    let mut by_place = HashMap::new();
    let mut by_value = HashMap::new();
    for (index, input) in inputs.iter().enumerate() {
        match &input.fate {
            Fate::Output(value) => {
                assert_eq!(by_output.insert(value.as_slice(), index), None, "{input:?}");
            }
            Fate::DeadLetter if !input.is_placed() => {
                by_value.insert(input.value.as_deref(), index);
            }
            Fate::DeadLetter => {
                let place = (
                    input.topic.as_str(),
                    input.at.partition.to_string(),
                    input.at.offset.to_string(),
                );
                by_place.insert(place, index);
            }
            Fate::Nothing => {}
        }
    }
    let of_output = |output: &ReadRecord| by_output.get(output.value.as_deref()?).copied();
    let of_letter = |letter: &ReadRecord| {
        let header = |name: &str| letter.header(&format!("__streams.errors.{name}"));
        let place = (
            header("topic")?,
            header("partition")?.to_owned(),
            header("offset")?.to_owned(),
        );
        let by_value = || by_value.get(&letter.value.as_deref());
        let index = by_place.get(&place).or_else(by_value).copied();
        index.filter(|&index| inputs[index].value == letter.value)
    };
    findings.compare("output", inputs, outputs, of_output);
    findings.compare("dead letter", inputs, letters, of_letter);
    let wanted = |fate: &Fate, what| match fate {
        Fate::Output(_) => what == "output",
        Fate::DeadLetter => what == "dead letter",
        Fate::Nothing => false,
    };
    for what in ["output", "dead letter"] {
        for (index, input) in inputs.iter().enumerate() {
            if wanted(&input.fate, what) && !findings.seen.contains_key(&(what, index)) {
                let Input { topic, at, .. } = input;
                let (partition, offset) = (at.partition, at.offset);
                findings.add(
                    "missing",
                    format!("{topic}-{partition}@{offset} has no {what}"),
                );
            }
        }
    }
    findings.result(inputs.len())
}

#[derive(Default)]
struct Findings {
    /// Where the first output or dead letter of an input was seen.
    seen: HashMap<(&'static str, usize), (i32, i64)>,
    counts: BTreeMap<&'static str, usize>,
    told: Vec<String>,
}

impl Findings {
    fn compare(
        &mut self,
        what: &'static str,
        inputs: &[Input],
        records: &[ReadRecord],
        input_of: impl Fn(&ReadRecord) -> Option<usize>,
    ) {
        let mut last = HashMap::new();
        for record in records {
            let place = format!("{}-{}@{}", record.topic, record.partition, record.offset);
            let Some(index) = input_of(record) else {
                self.add("extra", format!("no input has to become {record:?}"));
                continue;
            };
            let input = &inputs[index];
            let source = format!("{}-{}@{}", input.topic, input.at.partition, input.at.offset);
            if input.key != record.key {
                self.add("other key", format!("{what} {place} of {source}"));
            }
            if let Some(first) = self.seen.get(&(what, index)) {
                let text = format!("{source} has a {what} at {first:?} and again at {place}");
                self.add("doubled", text);
                continue;
            }
            self.seen
                .insert((what, index), (record.partition, record.offset));
            if !input.is_placed() {
                continue;
            }
            let lane = (input.topic.as_str(), input.at.partition, record.partition);
            if let Some(before) = last.insert(lane, input.at.offset)
                && before > input.at.offset
            {
                let text = format!("{what} {place} of {source} comes after that of {before}");
                self.add("out of order", text);
            }
        }
    }

    fn add(&mut self, kind: &'static str, text: String) {
        *self.counts.entry(kind).or_default() += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{kind}: {text}"));
        }
    }

    fn result(self, inputs: usize) -> Result<(), String> {
        if self.counts.is_empty() {
            return Ok(());
        }
        let told = self.told.join("\n");
        Err(format!("of {inputs} inputs: {:?}\n{told}", self.counts))
    }
}
