//! Takes variables out of the environment one key at a time and notes what came of each: value, source, error.
//! Called by the sections and by the passthrough; whatever is left afterwards is unknown. Never logs.

use std::collections::BTreeMap;

use super::error::ConfigError;
use super::keys::{self, IfUnset, Key};
use super::types::MASK;
use super::unknown;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    Env,
    File,
}

/// What holds for one variable, fit to be shown: secrets are masked before they get here.
#[derive(Clone, Debug)]
pub(super) struct Effective {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) source: Source,
}

/// A text that was given, and how.
pub(super) struct Given {
    pub(super) text: String,
    pub(super) source: Source,
}

pub(super) struct Reader {
    pub(super) prefix: String,
    /// Without the prefix; taken out as they are read.
    pub(super) vars: BTreeMap<String, String>,
    pub(super) effective: Vec<Effective>,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

impl Reader {
    /// Keeps what has the prefix. A variable that is set to nothing counts as not set, as Compose files expect.
    pub(super) fn new(prefix: &str, vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = |(key, value): (String, String)| {
            let name = key.strip_prefix(prefix)?.to_owned();
            let kept = !value.trim().is_empty() && !unknown::is_service_link(&name, &value);
            kept.then_some((name, value))
        };
        Reader {
            prefix: prefix.to_owned(),
            vars: vars.into_iter().filter_map(ours).collect(),
            effective: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// A key that must be set. The empty value it gives otherwise never gets out: there is an error beside it.
    pub(super) fn required<T: Default>(
        &mut self,
        key: &'static Key,
        parse: fn(&str) -> Option<T>,
    ) -> T {
        self.optional(key, parse).unwrap_or_default()
    }

    /// A key with a default text in the table.
    pub(super) fn defaulted<T>(&mut self, key: &'static Key, parse: fn(&str) -> Option<T>) -> T {
        self.optional(key, parse)
            .unwrap_or_else(|| unreachable!("the table's default of {} is not allowed", key.name))
    }

    /// A key that may be unset. One that is set to something refused gives its default and an error.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static Key,
        parse: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let errors_before = self.errors.len();
        if let Some(given) = self.take(key.name, key.secret) {
            let text = given.text.trim();
            let shown = if key.secret { MASK } else { text };
            if let Some(value) = key.kind.accepts(text).then(|| parse(text)).flatten() {
                self.note(key.name, Some(shown), given.source);
                return Some(value);
            }
            let problem = format!("allowed is {}", key.kind.allowed());
            self.refuse(key.name, Some(shown), problem);
        }
        let refused = self.errors.len() > errors_before;
        let default = match key.default {
            IfUnset::Is(text) => Some(text),
            IfUnset::Unset | IfUnset::Derived(_) => None,
            IfUnset::Required => {
                if !refused {
                    let problem = format!("is required: {} ({})", key.about, key.kind.allowed());
                    self.refuse(key.name, None, problem);
                }
                None
            }
        };
        self.note(key.name, default, Source::Default);
        default.and_then(parse)
    }

    /// States what an unset key with a derived default came to.
    pub(super) fn derived(&mut self, key: &'static Key, text: Option<&str>) {
        let name = self.full(key.name);
        let unset = |effective: &&mut Effective| effective.key == name && effective.value.is_none();
        if let Some(effective) = self.effective.iter_mut().find(unset) {
            effective.value = text.map(str::to_owned);
        }
    }

    /// Takes a variable, or for a secret the file that its `_FILE` twin names.
    pub(super) fn take(&mut self, name: &str, secret: bool) -> Option<Given> {
        let text = self.vars.remove(name);
        let twin = format!("{name}_FILE");
        let path = if secret {
            self.vars.remove(&twin)
        } else {
            None
        };
        match (text, path) {
            (Some(_), Some(path)) => {
                let problem = format!("{} is set too: set one of them", self.full(name));
                self.refuse(&twin, Some(&path), problem);
                None
            }
            (Some(text), None) => Some(Given {
                text,
                source: Source::Env,
            }),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                // Editors and `echo` end a file with a line break that is no part of the secret.
                Ok(text) => Some(Given {
                    text: text.trim_end_matches(['\n', '\r']).to_owned(),
                    source: Source::File,
                }),
                Err(error) => {
                    self.refuse(
                        &twin,
                        Some(&path),
                        format!("cannot read this file: {error}"),
                    );
                    None
                }
            },
            (None, None) => None,
        }
    }

    pub(super) fn note(&mut self, name: &str, shown: Option<&str>, source: Source) {
        let effective = Effective {
            key: self.full(name),
            value: shown.map(str::to_owned),
            source,
        };
        self.effective.push(effective);
    }

    pub(super) fn refuse(&mut self, name: &str, shown: Option<&str>, problem: impl AsRef<str>) {
        let problem = self.prefixed(problem.as_ref());
        self.errors
            .push(ConfigError::new(self.full(name), shown, problem));
    }

    /// The variable's whole name.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The table's words, with the prefix that is in use.
    fn prefixed(&self, words: &str) -> String {
        words.replace(keys::PREFIX, &self.prefix)
    }
}
