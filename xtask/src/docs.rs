//! `cargo xtask docs`: writes the tables that are generated into the README, between markers, and looks that every test that README,
//! ARCHITECTURE and docs/reliability.md lean on exists. With `--check` it writes nothing and fails where it would. Called by `main.rs`.

mod memory;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use orchestrator_runtime::Config;
use orchestrator_testkit::workspace;

const PAGES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "docs/reliability.md"];

/// What the command line says.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail if what is there is stale
    #[arg(long)]
    check: bool,
}

/// Writes the README's table of keys, or checks it; checks the tests that are named.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let path = workspace::root().join("README.md");
    let name = path.display();
    let readme = read(&path)?;
    let parts = [
        ("memory", memory::table()?),
        ("configuration", Config::markdown_table()),
    ];
    let mut written = readme.clone();
    for (part, generated) in &parts {
        written = between_markers(&written, part, generated)
            .with_context(|| format!("{name} lacks the markers of {part}"))?;
    }
    if written != readme {
        if options.check {
            bail!("the tables in {name} are stale: run `cargo xtask docs`");
        }
        fs::write(&path, written).with_context(|| format!("cannot write {name}"))?;
        println!("{name} is up to date");
    }
    named_tests_exist()
}

/// The text with `generated` between the markers of a part; none if they are not there.
fn between_markers(text: &str, part: &str, generated: &str) -> Option<String> {
    let begin = format!("<!-- {part}: written by `cargo xtask docs` -->\n");
    let end = format!("<!-- end of {part} -->");
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    let generated = generated.trim();
    Some(format!("{before}{begin}{generated}\n{end}{after}"))
}

fn named_tests_exist() -> anyhow::Result<()> {
    let root = workspace::root();
    let sources = sources(&root)?;
    let mut missing = Vec::new();
    for page in PAGES {
        let text = read(&root.join(page))?;
        let has = |name: &str| {
            ["(", "<"]
                .iter()
                .any(|end| sources.contains(&format!("fn {name}{end}")))
        };
        let named = names(&text).filter(|name| !has(name));
        missing.extend(named.map(|name| format!("{page} names {name}()")));
    }
    if !missing.is_empty() {
        bail!("there is no such test:\n{}", missing.join("\n"));
    }
    Ok(())
}

/// The code spans that are a function's name and `()`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let plain = |name: &&str| {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        !name.is_empty() && name.bytes().all(letter)
    };
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .filter_map(|span| span.strip_suffix("()"))
        .filter(plain)
}

/// All Rust code of the workspace's crates.
fn sources(root: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut folders: Vec<PathBuf> = list(root)?;
    folders.retain(|folder| folder.join("Cargo.toml").exists());
    while let Some(folder) = folders.pop() {
        for path in list(&folder)? {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                text.push_str(&read(&path)?);
            }
        }
    }
    Ok(text)
}

fn list(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(|entries| {
        let paths = entries.map(|entry| Ok(entry?.path()));
        paths.collect()
    });
    entries.with_context(|| format!("cannot list {}", folder.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = |part: &str| {
            format!("a\n<!-- x: written by `cargo xtask docs` -->\n{part}\n<!-- end of x -->\nb\n")
        };
        let new = between_markers(&page("old"), "x", "\nnew\n");
        assert_eq!(new, Some(page("new")));
        assert_eq!(between_markers(&page("new"), "x", "new"), Some(page("new")));
        assert_eq!(between_markers(&page("old"), "y", "new"), None);
    }

    #[test]
    fn names_are_found_in_code_spans() {
        let text = "`a_test()` and `not.one()`, `()`, a_word(), `x`: `another_1()`";
        assert_eq!(names(text).collect::<Vec<_>>(), ["a_test", "another_1"]);
    }
}
