//! Which processes a server is, and whether they have gone.
//!
//! Used by the tests of what must not stay behind. It asks `ps`, not the kit.

use std::process::Command;
use std::time::{Duration, Instant};

/// The processes that name this folder in their arguments, the shell that watches among them, and
/// the children of these.
pub(crate) fn family_of(folder: &str) -> Vec<String> {
    let output = Command::new("ps")
        .args(["-ww", "-e", "-o", "pid=", "-o", "ppid=", "-o", "args="])
        .output()
        .unwrap();
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = || all.lines().map(|line| line.trim_start());
    let naming: Vec<&str> = lines()
        .filter(|line| line.contains(folder))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let belongs = |words: &[&str]| words.iter().any(|pid| naming.contains(pid));
    lines()
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>())
        .filter(|words| belongs(words))
        .map(|words| words[0].to_owned())
        .collect()
}

/// Whether this process is there; one that has ended and is not collected is not.
pub(crate) fn runs(pid: &str) -> bool {
    let output = Command::new("ps")
        .args(["-o", "stat=", "-p", pid])
        .output()
        .unwrap();
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

#[track_caller]
pub(crate) fn await_that(what: &str, condition: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < give_up, "waited 60 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
