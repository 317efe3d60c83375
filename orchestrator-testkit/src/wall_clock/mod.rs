//! A wall clock of a program's own, which a test steps while the program runs, as an administrator or NTP does with a
//! machine's. Waits that go by the wall clock go by this one; the monotonic clock stays right.
//!
//! Debian's faketime does the same but for waits by C11's `cnd_timedwait`, and those are librdkafka's. Needs a C compiler,
//! as librdkafka does.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{env, io};

use tempfile::NamedTempFile;

use crate::command::{output_within, tail};
use crate::process::Program;
use crate::workspace::target_dir;

const SOURCE: &str = include_str!("stepped.c");
const COMPILED_WITHIN: Duration = Duration::from_secs(60);
/// Where `stepped.c` has what.
const OFFSET_AT: u64 = 0;
const TIMES_READ_AT: u64 = 8;

/// See the module. The clock is right until it is stepped.
#[derive(Debug)]
pub struct WallClock {
    /// Mapped into the programs that go by this clock.
    shared: NamedTempFile,
    library: PathBuf,
}

impl WallClock {
    /// A clock that is right.
    pub fn new() -> io::Result<Self> {
        let shared = NamedTempFile::new()?;
        shared.as_file().set_len(16)?;
        Ok(Self {
            shared,
            library: library()?,
        })
    }

    /// The program going by this clock, with all that it starts.
    #[must_use]
    pub fn of(&self, program: Program) -> Program {
        program
            .env("LD_PRELOAD", &self.library)
            .env("ORCHESTRATOR_WALL_CLOCK", self.shared.path())
    }

    /// Steps it to so many seconds ahead of what is right; behind, if negative.
    pub fn step_to(&self, seconds: i64) -> io::Result<()> {
        let offset_ns = seconds * 1_000_000_000;
        let shared = self.shared.as_file();
        shared.write_all_at(&offset_ns.to_ne_bytes(), OFFSET_AT)
    }

    /// How often programs have asked it so far.
    pub fn times_read(&self) -> io::Result<u64> {
        let mut times = [0; 8];
        let shared = self.shared.as_file();
        shared.read_exact_at(&mut times, TIMES_READ_AT)?;
        Ok(u64::from_ne_bytes(times))
    }
}

/// What is preloaded, compiled once a process.
fn library() -> io::Result<PathBuf> {
    static COMPILED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*compiled {
        return Ok(path.clone());
    }
    let folder = target_dir().join("testkit");
    fs::create_dir_all(&folder)?;
    // Another process may have an older one in use.
    let path = folder.join("stepped-clock.so");
    let fresh = folder.join(format!("stepped-clock-{}", std::process::id()));
    let source = fresh.with_extension("c");
    fs::write(&source, SOURCE)?;
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-std=gnu11", "-O2", "-fPIC", "-shared", "-pthread", "-o"]);
    command.arg(&fresh).arg(&source);
    let output = output_within(&mut command, COMPILED_WITHIN).map_err(|error| {
        let compiler = compiler.to_string_lossy();
        io::Error::new(
            error.kind(),
            format!("cannot run {compiler}, the C compiler: {error}"),
        )
    })?;
    fs::remove_file(&source)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(tail(&text, 20)));
    }
    fs::rename(&fresh, &path)?;
    *compiled = Some(path.clone());
    Ok(path)
}
