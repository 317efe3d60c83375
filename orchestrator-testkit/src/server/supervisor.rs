//! A small shell that owns a server process and outlives us just long enough to end it.
//!
//! Called by `process.rs` and `kafka/docker.rs` (a container). The shell reads from a pipe that we
//! hold; when we go, by whatever way, SIGKILL included, the kernel closes the pipe, the shell sees
//! the end of file, kills the server by pid and removes its folder. This needs neither `unsafe` nor
//! `prctl`. It must never signal a process that it did not start.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a supervisor may take to end its server and remove its folder.
const CLOSE_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Supervisor {
    shell: Child,
    /// Dropping this is the order to end.
    commands: Option<ChildStdin>,
    replies: Receiver<String>,
}

impl Supervisor {
    /// Starts `script` with `arguments` as `$1 ..`, in a process group of its own, so that a Ctrl-C
    /// at our terminal does not reach the server before us.
    pub(crate) fn spawn(
        script: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> io::Result<Self> {
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg("supervisor")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let commands = shell.stdin.take();
        let stdout = shell.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, replies) = channel();
        std::thread::Builder::new()
            .name("supervisor-replies".to_owned())
            .spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self {
            shell,
            commands,
            replies,
        })
    }

    /// Sends one command and waits for its answer: what follows `ok`, or else an error.
    pub(crate) fn ask(
        &mut self,
        command: impl AsRef<OsStr>,
        deadline: Duration,
    ) -> io::Result<String> {
        let pipe = self.commands.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(&[command.as_ref().as_bytes(), b"\n"].concat())?;
        self.reply(deadline)
    }

    /// Waits for the next answer, without a command.
    pub(crate) fn reply(&mut self, deadline: Duration) -> io::Result<String> {
        let line = self.replies.recv_timeout(deadline).map_err(|e| match e {
            RecvTimeoutError::Timeout => io::Error::from(io::ErrorKind::TimedOut),
            RecvTimeoutError::Disconnected => io::Error::from(io::ErrorKind::BrokenPipe),
        })?;
        match line.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(io::Error::other(line)),
        }
    }

    /// Lets go of a shell that has been told to stay. Nothing is ended.
    pub(crate) fn forget(mut self) -> u32 {
        self.commands = None;
        let pid = self.shell.id();
        // The destructor would wait for an end that is not to come.
        std::mem::forget(self);
        pid
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.commands = None;
        let give_up = Instant::now() + CLOSE_DEADLINE;
        while Instant::now() < give_up {
            match self.shell.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }
}
