//! Looks for a server's programs.
//!
//! Called by `postgres` and `mariadb`. It only looks: nothing is run, nothing installed.

use std::env;
use std::path::{Path, PathBuf};

/// The folders of `PATH`.
pub(crate) fn path_folders() -> Vec<PathBuf> {
    env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default()
}

/// The first of these folders' file of this name.
pub(crate) fn find(program: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let files = folders.iter().map(|folder| folder.join(program));
    files.into_iter().find(|file| Path::is_file(file))
}
