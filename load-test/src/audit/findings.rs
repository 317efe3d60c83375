//! What an audit finds: kinds of trouble, how often, and a few examples of each.

use std::collections::BTreeMap;

use serde::Serialize;

const EXAMPLES: usize = 5;

/// One kind of trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) what: &'static str,
    pub(crate) count: u64,
    /// Where, the first few.
    pub(crate) examples: Vec<String>,
}

/// All kinds.
#[derive(Debug, Default)]
pub(crate) struct Findings(BTreeMap<&'static str, Finding>);

impl Findings {
    pub(crate) fn add(&mut self, what: &'static str, example: impl FnOnce() -> String) {
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

    pub(crate) fn into_vec(self) -> Vec<Finding> {
        self.0.into_values().collect()
    }
}
