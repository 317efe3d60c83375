//! Configuration as text for people: the README's table of keys and `print-config`. Called by `main` and xtask.
//! Pure; secrets are masked before they get here.

use super::Config;
use super::keys::{IfUnset, Key, PASSTHROUGH, PREFIX, SECTIONS};
use super::reader::{Effective, Source};

impl Config {
    /// The README's table of every key: what is allowed, the default, what it is for.
    pub fn markdown_table() -> String {
        let mut text = String::new();
        for (section, keys) in SECTIONS {
            text.push_str(&heading(section));
            text.extend(keys.iter().map(row));
        }
        text.push_str(&heading("librdkafka"));
        text.extend(
            PASSTHROUGH
                .iter()
                .map(|(name, about)| cells(name, "what librdkafka allows", "", about)),
        );
        text
    }

    /// What is in effect: a line per key with its value and where it came from, secrets masked.
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut rest: Vec<&Effective> = self.effective.iter().collect();
        for (section, keys) in SECTIONS {
            text.push_str(&format!("# {section}\n"));
            for key in *keys {
                let name = format!("{}{}", self.prefix, key.name);
                if let Some(at) = rest.iter().position(|effective| effective.key == name) {
                    text.push_str(&line(rest.remove(at)));
                }
            }
        }
        text.push_str("# librdkafka\n");
        text.extend(rest.into_iter().map(line));
        text
    }
}

fn line(effective: &Effective) -> String {
    let source = match effective.source {
        Source::Default => "default",
        Source::Env => "environment",
        Source::File => "file",
    };
    match &effective.value {
        Some(value) => format!("{}={} ({source})\n", effective.key, value.escape_debug()),
        None => format!("{} is not set\n", effective.key),
    }
}

fn heading(section: &str) -> String {
    format!("\n**{section}**\n\n| key | allowed | default | what it is |\n|---|---|---|---|\n")
}

fn row(key: &Key) -> String {
    let default = match key.default {
        IfUnset::Required => "*required*".to_owned(),
        IfUnset::Unset => String::new(),
        IfUnset::Is(text) => format!("`{text}`"),
        IfUnset::Derived(words) => words.to_owned(),
    };
    let file = if key.secret {
        " Secret; or `_FILE`."
    } else {
        ""
    };
    cells(
        key.name,
        &key.kind.allowed(),
        &default,
        &format!("{}{file}", key.about),
    )
}

fn cells(name: &str, allowed: &str, default: &str, about: &str) -> String {
    format!(
        "| `{PREFIX}{name}` | {} | {default} | {about} |\n",
        allowed.replace('|', "\\|")
    )
}
