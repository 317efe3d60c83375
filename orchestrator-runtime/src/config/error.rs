//! What is wrong with a configuration: every error at once. Built by the reader and the rules; never holds a secret.

use std::fmt;

/// One thing that is wrong: the variable, what it was set to, and what is allowed instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The environment variable.
    pub key: String,
    /// What it was set to; a mask if that is secret, nothing if it is not set or cannot be shown safely.
    pub given: Option<String>,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// The longest value an error quotes, in characters.
const MAX_QUOTED: usize = 120;

impl ConfigError {
    pub(super) fn new(
        key: impl Into<String>,
        given: Option<&str>,
        problem: impl Into<String>,
    ) -> Self {
        let quoted = |text: &str| match text.char_indices().nth(MAX_QUOTED) {
            Some((end, _)) => format!("{}..", &text[..end]),
            None => text.to_owned(),
        };
        ConfigError {
            key: key.into(),
            given: given.map(quoted),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.given {
            Some(given) => write!(f, "{}={given:?}: {}", self.key, self.problem),
            None => write!(f, "{}: {}", self.key, self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong with a configuration; `Display` gives one line each. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub(super) fn new(errors: Vec<ConfigError>) -> Self {
        debug_assert!(!errors.is_empty(), "no error is not an error");
        ConfigErrors(errors)
    }

    /// The errors, in the order of the table of keys, rules across keys last.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
