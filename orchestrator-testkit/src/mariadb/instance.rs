//! How a MariaDB is made from its programs.
//!
//! Called by `mod.rs`. No option file is read. The server's own defaults hold, but for what a server
//! beside others needs, and for what the test sets.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::options::MariaDbOptions;
use crate::database::{Commands, Place, find, path_folders};

/// Where the programs may be besides `PATH`: that of a user often leaves out the server's folder.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];

#[derive(Debug)]
pub(super) struct Programs {
    install_db: PathBuf,
    mariadbd: PathBuf,
}

/// Every folder where the programs may be, the best first.
pub(super) fn folders() -> Vec<PathBuf> {
    let fixed = FOLDERS.iter().map(PathBuf::from);
    path_folders().into_iter().chain(fixed).collect()
}

pub(super) fn programs(folders: &[PathBuf]) -> Result<Programs, String> {
    let program = |name: &str| {
        find(name, folders).ok_or_else(|| format!("no {name} in PATH or {}", FOLDERS.join(", ")))
    };
    Ok(Programs {
        mariadbd: program("mariadbd")?,
        install_db: program("mariadb-install-db")?,
    })
}

impl Programs {
    pub(super) fn commands(
        &self,
        options: &MariaDbOptions,
        place: &Place<'_>,
    ) -> io::Result<Commands> {
        let data = option("datadir", &place.folder.join("data"));
        let users = place.folder.join("users.sql");
        fs::write(&users, first_statements(place))?;
        let prepare: Vec<OsString> = vec![
            (&self.install_db).into(),
            "--no-defaults".into(),
            data.clone(),
            // Each server removes what it finds of temporary tables where its own are, others' among them.
            option("tmpdir", place.folder),
            // The other method leaves a root without a password that anybody on this host can be.
            "--auth-root-authentication-method=socket".into(),
            "--skip-test-db".into(),
            "--skip-name-resolve".into(),
        ];
        let mut start: Vec<OsString> = vec![
            (&self.mariadbd).into(),
            "--no-defaults".into(),
            data,
            option("socket", &place.folder.join("mariadb.sock")),
            option("pid-file", &place.folder.join("mariadb.pid")),
            option("tmpdir", place.folder),
            option("init-file", &users),
            "--bind-address=127.0.0.1".into(),
            format!("--port={}", place.port).into(),
            "--skip-name-resolve".into(),
            "--character-set-server=utf8mb4".into(),
            "--collation-server=utf8mb4_general_ci".into(),
        ];
        let set = options.options.iter();
        start.extend(set.map(|(key, value)| format!("--{key}={value}").into()));
        Ok(Commands { prepare, start })
    }
}

fn option(key: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("--{key}="));
    option.push(path);
    option
}

/// Run at every start, before connections are taken.
fn first_statements(place: &Place<'_>) -> String {
    let (user, password) = (place.user, place.password);
    format!(
        "CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}';\n\
         GRANT ALL ON *.* TO '{user}'@'%' WITH GRANT OPTION;\n"
    )
}
