//! `cargo xtask docs`: writes what is generated into the README, between markers, or with `--check` says whether it is
//! there already. Called by `main.rs`; touches nothing outside the markers.

use std::fs;

use anyhow::{Context, bail};
use orchestrator_runtime::Config;
use orchestrator_testkit::workspace;

const BEGIN: &str = "<!-- configuration: written by `cargo xtask docs` -->\n";
const END: &str = "<!-- end of configuration -->";

/// What the command line says.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail if what is there is stale
    #[arg(long)]
    check: bool,
}

/// Writes the README's table of keys, or checks it.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let path = workspace::root().join("README.md");
    let name = path.display();
    let readme = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
    let written = between_markers(&readme, &Config::markdown_table())
        .with_context(|| format!("{name} lacks the lines\n{BEGIN}{END}"))?;
    if written == readme {
        return Ok(());
    }
    if options.check {
        bail!("the configuration table in {name} is stale: run `cargo xtask docs`");
    }
    fs::write(&path, written).with_context(|| format!("cannot write {name}"))?;
    println!("{name} is up to date");
    Ok(())
}

/// The text with `generated` between the markers; none if they are not there.
fn between_markers(text: &str, generated: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let generated = generated.trim();
    Some(format!("{before}{BEGIN}{generated}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        let new = between_markers(&text, "\nnew\n");
        assert_eq!(new, Some(format!("a\n{BEGIN}new\n{END}\nb\n")));
        let again = new.as_deref().and_then(|new| between_markers(new, "new"));
        assert_eq!(again, new);
        assert_eq!(between_markers("no markers", "new"), None);
    }
}
