//! Who runs a server that refuses to be run by root.
//!
//! Called by `database/own.rs`. Where we are not root, we are that user already. It must never give
//! away anything but the server's own folder.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::command::output_within;

const DEADLINE: Duration = Duration::from_secs(10);

/// A user of this host without privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// The first of these users that exists; none if we are not root, and need no other.
    pub(crate) fn instead_of_root(names: &[&str]) -> io::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        for name in names {
            if let (Some(uid), Some(gid)) = (id("-u", name)?, id("-g", name)?) {
                return Ok(Some(Self { uid, gid }));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("none of the users {names:?} exists"),
        ))
    }

    /// Makes the folder and the files in it this user's.
    pub(crate) fn give(self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            chown(entry?.path(), Some(self.uid), Some(self.gid))?;
        }
        chown(folder, Some(self.uid), Some(self.gid))
    }

    /// The same command, run as this user. The process stays the same one.
    pub(crate) fn command(self, command: Vec<OsString>) -> Vec<OsString> {
        let mut all = vec![
            "setpriv".into(),
            format!("--reuid={}", self.uid).into(),
            format!("--regid={}", self.gid).into(),
            "--clear-groups".into(),
            "--".into(),
        ];
        all.extend(command);
        all
    }
}

fn id(flag: &str, name: &str) -> io::Result<Option<u32>> {
    let output = output_within(Command::new("id").args([flag, name]), DEADLINE)?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().parse().ok().filter(|_| output.status.success()))
}
