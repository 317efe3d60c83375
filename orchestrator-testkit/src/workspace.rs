//! Where this workspace keeps what it builds and fetches.
//!
//! Used by `kafka/fetch.rs`, `process.rs` and `cargo xtask`.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the workspace, as it was when this crate was compiled.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder: the one that the running program lies in, else `CARGO_TARGET_DIR`, else
/// `target` in the workspace.
pub fn target_dir() -> PathBuf {
    // The program's own place first: CARGO_TARGET_DIR may be relative to a folder we no longer know.
    let from_program = env::current_exe().ok().and_then(|program| {
        program
            .ancestors()
            .find(|folder| folder.join("CACHEDIR.TAG").exists())
            .map(Path::to_path_buf)
    });
    from_program
        .or_else(|| env::var_os("CARGO_TARGET_DIR").map(PathBuf::from))
        .unwrap_or_else(|| root().join("target"))
}
