//! What an audit finds: kinds of trouble, how often, and a few examples of each. Filled by books; it judges nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

const EXAMPLES: usize = 5;

/// One kind of trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In words.
    pub what: &'static str,
    /// How often.
    pub count: u64,
    /// Where, the first few.
    pub examples: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let examples = self.examples.join(", ");
        write!(f, "{}: {} (for example {examples})", self.what, self.count)
    }
}

/// All kinds. Bounded: however much is wrong, only the first examples are kept.
#[derive(Clone, Debug, Default)]
pub struct Findings(BTreeMap<&'static str, Finding>);

impl Findings {
    /// One more of this kind.
    pub fn add(&mut self, what: &'static str, example: impl FnOnce() -> String) {
        let finding = self.0.entry(what).or_insert_with(|| Finding {
            what,
            count: 0,
            examples: Vec::new(),
        });
        finding.count += 1;
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(example());
        }
    }

    /// How many of this kind there are.
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).map_or(0, |finding| finding.count)
    }

    /// One of each kind that was found.
    pub fn into_vec(self) -> Vec<Finding> {
        self.0.into_values().collect()
    }
}
