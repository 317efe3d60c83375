//! The output of a process, line by line, as it comes.
//!
//! Used by `mod.rs`. Threads read both pipes to their ends, so that the process never blocks on a
//! full one; a limit keeps a talkative process from eating our memory.

use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStderr, ChildStdout};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Beyond this, lines are counted but not kept.
const LINES_MAX: usize = 1_000_000;

/// Which pipe a line came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of output, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it came from.
    pub stream: Stream,
    /// What it says; bytes that are not UTF-8 are replaced.
    pub text: String,
}

#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    open: usize,
}

impl Lines {
    pub(super) fn collect(stdout: Option<ChildStdout>, stderr: Option<ChildStderr>) -> Self {
        let lines = Self::default();
        if let Some(pipe) = stdout {
            lines.clone().read(Stream::Stdout, pipe);
        }
        if let Some(pipe) = stderr {
            lines.clone().read(Stream::Stderr, pipe);
        }
        lines
    }

    fn read(self, stream: Stream, pipe: impl Read + Send + 'static) {
        self.state().open += 1;
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut bytes), Ok(1..)) {
                let text = String::from_utf8_lossy(&bytes);
                let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
                bytes.clear();
                let mut state = self.state();
                if state.lines.len() < LINES_MAX {
                    state.lines.push(Line { stream, text });
                }
            }
            self.state().open -= 1;
        });
    }

    pub(super) fn since(&self, first: usize) -> Vec<Line> {
        let state = self.state();
        state.lines.get(first..).unwrap_or_default().to_vec()
    }

    pub(super) fn count(&self) -> usize {
        self.state().lines.len()
    }

    /// Both pipes have ended.
    pub(super) fn complete(&self) -> bool {
        self.state().open == 0
    }

    pub(super) fn tail(&self, lines: usize) -> String {
        let state = self.state();
        let first = state.lines.len().saturating_sub(lines);
        let texts: Vec<&str> = state.lines[first..]
            .iter()
            .map(|line| line.text.as_str())
            .collect();
        texts.join("\n")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
