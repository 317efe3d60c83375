//! The folder that journals lie in: names of files, locks, and who may take what. Used by the journal. It must never
//! touch a file of a journal whose lock it does not hold.
//!
//! A journal is `spill-<ledger>-<journal>.lock`, which its process holds a lock on, and segments
//! `spill-<ledger>-<journal>-<number>.jsonl`. `<ledger>` is a checksum of cluster and group, `<journal>` is random and
//! never used again. The number is the time in microseconds at which the segment was begun, strictly growing within a
//! journal: segments of all journals are in order by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use orchestrator_core::LedgerIdentity;

use super::error::SpillError;

/// So many random names are taken before we give up: each is free unless somebody plays tricks.
const MAX_TRIES: usize = 100;

/// A segment among all those of the ledger; the older ones come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentId {
    pub(super) number: i64,
    pub(super) journal: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    prefix: String,
}

/// The files of the ledger's journals.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Each segment with its length.
    pub(super) segments: BTreeMap<SegmentId, u64>,
    pub(super) journals: BTreeSet<String>,
}

/// The right to a journal's files, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Folder {
    /// The folder, made if it is not there.
    pub(super) fn open(path: &Path, ledger: &LedgerIdentity) -> Result<Self, SpillError> {
        let ledger = format!("{}\n{}", ledger.cluster_id, ledger.consumer_group);
        let folder = Self {
            path: path.to_owned(),
            prefix: format!("spill-{:08x}-", crc32fast::hash(ledger.as_bytes())),
        };
        folder.make()?;
        Ok(folder)
    }

    /// Makes it, if it is not there: for this user only, because it holds payloads.
    pub(super) fn make(&self) -> Result<(), SpillError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&self.path)
            .map_err(|error| SpillError::new("make the spill folder", &self.path, error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn segment_path(&self, id: &SegmentId) -> PathBuf {
        let SegmentId { number, journal } = id;
        let name = format!("{}{journal}-{number:016}.jsonl", self.prefix);
        self.path.join(name)
    }

    fn lock_path(&self, journal: &str) -> PathBuf {
        self.path.join(format!("{}{journal}.lock", self.prefix))
    }

    /// What is there now.
    pub(super) fn list(&self) -> Result<Listing, SpillError> {
        let failed = |error| SpillError::new("look into the spill folder", &self.path, error);
        let mut listing = Listing::default();
        for file in fs::read_dir(&self.path).map_err(failed)? {
            let file = file.map_err(failed)?;
            let name = file.file_name();
            let Some(name) = name.to_str().and_then(|n| n.strip_prefix(&self.prefix)) else {
                continue;
            };
            if let Some(journal) = name.strip_suffix(".lock") {
                listing.journals.insert(journal.to_owned());
            } else if let Some(id) = segment_id(name) {
                match file.metadata() {
                    Ok(metadata) => {
                        listing.journals.insert(id.journal.clone());
                        listing.segments.insert(id, metadata.len());
                    }
                    // Its owner is done with it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(listing)
    }

    /// A new journal.
    pub(super) fn new_journal(&self) -> Result<(String, Lock), SpillError> {
        for _ in 0..MAX_TRIES {
            let journal = format!("{:012x}", fastrand::u64(..1 << 48));
            let path = self.lock_path(&journal);
            let failed = |error| SpillError::new("make a lock file", &path, error);
            let file = match new_file().open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed(error)),
            };
            // Between the two somebody may have taken it for a dead process' and removed it.
            if let Some(lock) = try_lock(file, &path)?
                && fs::exists(&path).map_err(failed)?
            {
                return Ok((journal, lock));
            }
        }
        let error = io::Error::other("every name is taken at once");
        Err(SpillError::new("make a lock file in", &self.path, error))
    }

    /// Takes over a journal, unless its process lives.
    pub(super) fn take(&self, journal: &str) -> Result<Option<Lock>, SpillError> {
        let path = self.lock_path(journal);
        let file = OpenOptions::new().write(true).open(&path);
        let file = match file {
            // Its process was done with it just now; or somebody removed the lock file, but left the segments.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                new_file().create_new(false).create(true).open(&path)
            }
            file => file,
        };
        let file = file.map_err(|error| SpillError::new("open the lock file", &path, error))?;
        try_lock(file, &path)
    }
}

fn try_lock(file: File, path: &Path) -> Result<Option<Lock>, SpillError> {
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock {
            file,
            path: path.to_owned(),
        })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(SpillError::new("lock", path, error)),
    }
}

impl Lock {
    /// Whether others see that it is held.
    pub(super) fn has_file(&self) -> bool {
        fs::exists(&self.path).unwrap_or(true)
    }

    /// Ends the journal, all of whose segments are gone. No process can take it any more.
    pub(super) fn remove(self) -> Result<(), SpillError> {
        remove(&self.path)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file does it too, but not while a child process that is just being started has a copy of it.
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, file = %self.path.display(), "cannot unlock");
        }
    }
}

/// Removes a file; it may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), SpillError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SpillError::new("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// How a file is made: new, for appending, for this user only.
pub(super) fn new_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn segment_id(name: &str) -> Option<SegmentId> {
    let (journal, number) = name.strip_suffix(".jsonl")?.rsplit_once('-')?;
    Some(SegmentId {
        number: number.parse().ok()?,
        journal: journal.to_owned(),
    })
}
