//! A shell that kills a child when we are gone.
//!
//! Used by `mod.rs`, one for each process: Rust's destructors do not run when a test binary is
//! killed, and a runtime that keeps trying for ever would then stay for ever.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A line means that the child has been seen to; an end of file without one, that we are gone.
const SCRIPT: &str = r#"trap '' HUP INT TERM; read -r done || kill -KILL "$1" 2>/dev/null"#;

#[derive(Debug)]
pub(super) struct Watcher {
    shell: Child,
}

impl Watcher {
    pub(super) fn over(pid: u32) -> io::Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "watcher", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// The child is gone and collected: its pid may soon be somebody else's.
    pub(super) fn dismiss(mut self) {
        let told = self
            .shell
            .stdin
            .take()
            .map(|mut pipe| pipe.write_all(b"done\n"));
        // A shell that could not be told is gone already. Either way it is collected.
        if !matches!(told, Some(Ok(()))) || self.shell.wait().is_err() {
            eprintln!("the watcher of a process under test was gone before it");
        }
    }
}
