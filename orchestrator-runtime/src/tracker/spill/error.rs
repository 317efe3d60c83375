//! Why the spill journal could not do something: the path, the system's reason and what helps against it. Made by
//! everything in the journal, logged by its user. It must never show what an entry contains.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug)]
pub(in crate::tracker) struct SpillError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl SpillError {
    /// The error of `doing` something to `path`.
    pub(super) fn new(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// The error of a disk that did not answer in time.
    pub(in crate::tracker) fn no_answer(folder: &Path) -> Self {
        let late = io::Error::new(io::ErrorKind::TimedOut, "its disk does not answer");
        Self::new("use", folder, late)
    }

    fn remedy(&self) -> &'static str {
        use io::ErrorKind::*;
        match self.source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => {
                "free some space there, point ORCH_SPILL_DIR to a larger disk, or lower ORCH_SPILL_MAX_MB"
            }
            PermissionDenied | ReadOnlyFilesystem => {
                "let this user write there, or point ORCH_SPILL_DIR to a folder that it may write to"
            }
            NotFound | NotADirectory | AlreadyExists => {
                "ORCH_SPILL_DIR must name a folder, which is created if its parent may be written to"
            }
            Unsupported => "ORCH_SPILL_DIR must be on a disk that supports file locks, a local one",
            _ => "see to that disk, or point ORCH_SPILL_DIR to a folder on another one",
        }
    }
}

impl fmt::Display for SpillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            doing,
            path,
            source,
        } = self;
        let path = path.display();
        write!(f, "cannot {doing} {path}: {source}; {}", self.remedy())
    }
}

impl std::error::Error for SpillError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
