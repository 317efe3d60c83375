//! How a PostgreSQL is made from its programs.
//!
//! Called by `mod.rs`. The server's own defaults hold, but for what a server beside others needs, and
//! for what the test sets.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::options::PostgresOptions;
use crate::database::{Commands, Place, find, path_folders};

/// What the project is tested on; other versions are taken where this one is not.
const VERSION: u32 = 15;
/// Where Debian keeps the programs of each version; they are not on `PATH`.
const DEBIAN: &str = "/usr/lib/postgresql";

#[derive(Debug)]
pub(super) struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
}

/// Every folder where the programs may be, the best first.
pub(super) fn folders() -> Vec<PathBuf> {
    let mut versions: Vec<u32> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by_key(|&version| (version != VERSION, std::cmp::Reverse(version)));
    let debian = versions
        .into_iter()
        .map(|version| Path::new(DEBIAN).join(version.to_string()).join("bin"));
    debian.chain(path_folders()).collect()
}

/// Both programs of one folder: of different versions they would not do.
pub(super) fn programs(folders: &[PathBuf]) -> Result<Programs, String> {
    let both = |folder: &PathBuf| {
        let folder = std::slice::from_ref(folder);
        Some(Programs {
            initdb: find("initdb", folder)?,
            postgres: find("postgres", folder)?,
        })
    };
    folders
        .iter()
        .find_map(both)
        .ok_or_else(|| format!("no initdb with postgres in {DEBIAN}/*/bin or PATH"))
}

impl Programs {
    pub(super) fn commands(
        &self,
        options: &PostgresOptions,
        place: &Place<'_>,
    ) -> io::Result<Commands> {
        let data = place.folder.join("data");
        let password = place.folder.join("password");
        write_secret(&password, place.password)?;
        let mut pwfile = OsString::from("--pwfile=");
        pwfile.push(&password);
        let prepare: Vec<OsString> = vec![
            (&self.initdb).into(),
            "--pgdata".into(),
            (&data).into(),
            "--username".into(),
            place.user.into(),
            pwfile,
            "--auth=scram-sha-256".into(),
            "--encoding=UTF8".into(),
            "--locale=C".into(),
            "--no-sync".into(),
        ];
        let mut start: Vec<OsString> = vec![
            (&self.postgres).into(),
            "-D".into(),
            data.into(),
            "-p".into(),
            place.port.to_string().into(),
            "-k".into(),
            place.folder.into(),
        ];
        let own = [
            ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
            ("shared_buffers".to_owned(), "128MB".to_owned()),
        ];
        for (key, value) in own.iter().chain(&options.settings) {
            start.extend(["-c".into(), format!("{key}={value}").into()]);
        }
        Ok(Commands { prepare, start })
    }
}

fn write_secret(file: &Path, secret: &str) -> io::Result<()> {
    use io::Write as _;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    writeln!(file, "{secret}")
}
