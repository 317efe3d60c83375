//! Builds test and bench programs, and finds them. Used by the commands that run one themselves.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use orchestrator_testkit::workspace;
use serde_json::Value;

/// Has cargo build what `arguments` say; gives the path of the program whose source, as seen from the workspace, is
/// `source`.
pub(crate) fn built(arguments: &[&str], source: &str) -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .current_dir(workspace::root())
        .args(arguments)
        .args(["--no-run", "--message-format=json"])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{source} cannot be built");
    let source = workspace::root().join(source);
    let messages = String::from_utf8(output.stdout)?;
    let mut programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["src_path"].as_str()? == source.to_str()?;
        let path = message["executable"].as_str()?;
        is_it.then(|| PathBuf::from(path))
    });
    programs
        .next_back()
        .with_context(|| format!("cargo does not say where it put {}", source.display()))
}
