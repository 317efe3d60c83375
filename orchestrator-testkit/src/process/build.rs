//! Binaries of this workspace, built when a test needs them.
//!
//! Used by tests that run a whole program. The result is linked to a name of its own, so that a build
//! with other features, or of another test, does not swap it under a running test.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::ProcessError;
use crate::command::{output_within, tail};
use crate::workspace::{root, target_dir};

/// A cold build of all dependencies on a small machine.
const BUILD_DEADLINE: Duration = Duration::from_secs(1_800);
const TAIL_LINES: usize = 40;

/// The path of a binary such as `example-app`, built with these features (`package/feature`) in the
/// profile of the running program; once per process and set of features.
///
/// `ORCH_EXAMPLE_APP`, and the like for other names, names a finished binary instead.
pub fn workspace_binary(name: &str, features: &[&str]) -> Result<PathBuf, ProcessError> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let override_key = format!("ORCH_{}", name.replace('-', "_").to_uppercase());
    if let Some(path) = env::var_os(override_key).filter(|_| features.is_empty()) {
        return Ok(path.into());
    }
    let label = [&[name], features].concat().join("+").replace('/', ".");
    // Held while building: a second test that wants the same waits for it.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.get(&label) {
        return Ok(path.clone());
    }
    let path = build(name, features, &label)?;
    built.insert(label, path.clone());
    Ok(path)
}

fn build(name: &str, features: &[&str], label: &str) -> Result<PathBuf, ProcessError> {
    let target = target_dir();
    let folder = target.join("testkit");
    fs::create_dir_all(&folder)
        .map_err(ProcessError::io(format!("create {}", folder.display())))?;
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path)
        .map_err(ProcessError::io(format!("create {}", lock_path.display())))?;
    // From cargo's build to our link, no other process may build the same name.
    lock.lock()
        .map_err(ProcessError::io(format!("lock {}", lock_path.display())))?;

    let release = is_release();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // All of the workspace, so that the dependencies have the features they were tested with.
    cargo
        .current_dir(root())
        .args(["build", "--quiet", "--workspace", "--bin", name]);
    cargo.arg("--target-dir").arg(&target);
    if release {
        cargo.arg("--release");
    }
    if !features.is_empty() {
        cargo.args(["--features", &features.join(",")]);
    }
    let output = output_within(&mut cargo, BUILD_DEADLINE)
        .map_err(ProcessError::io(format!("run cargo build --bin {name}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(ProcessError::Build {
            name: name.to_owned(),
            tail: tail(&text, TAIL_LINES),
        });
    }
    let profile = if release { "release" } else { "debug" };
    let made = target.join(profile).join(name);
    let path = folder.join(format!("{label}-{profile}"));
    let fresh = folder.join(format!("{label}-{profile}-{}", std::process::id()));
    fs::hard_link(&made, &fresh)
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(ProcessError::io(format!(
            "link {} to {}",
            made.display(),
            path.display()
        )))?;
    Ok(path)
}

/// Whether the running program lies in cargo's `release` folder.
fn is_release() -> bool {
    env::current_exe().is_ok_and(|path| path.components().any(|c| c.as_os_str() == "release"))
}
