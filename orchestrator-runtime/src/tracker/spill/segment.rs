//! A file of a journal: what has been read of it, and reading on. Used by the journal, which holds its lock. It must
//! never stop at a damaged line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use orchestrator_core::LedgerIdentity;

use super::Entry;
use super::format::{self, Line, Whose};

/// Damaged lines of one file that are named in the log.
const MAX_NAMED: u64 = 10;
const READ_BYTES: usize = 64 * 1024;

/// A place between two lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    offset: u64,
    /// How many lines lie before it.
    line: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The bytes that are ours to read: behind them there may be what an append left half written.
    pub(super) len: u64,
    /// With the header's.
    lines: u64,
    /// Up to here all is done.
    read: Place,
    /// Up to here damaged lines are counted.
    examined: u64,
    damaged: u64,
    /// The disk does not give it back. Nobody reads it again before the process is restarted.
    aside: bool,
}

/// What is collected from segments.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) entries: Vec<Entry>,
    /// The bytes they were read from.
    pub(super) bytes: u64,
    /// Lines that were found damaged, for the first time.
    pub(super) damaged: u64,
}

impl Segment {
    /// One that is being written, and so far consists of its header.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            len: 0,
            lines: 0,
            read: Place::default(),
            examined: 0,
            damaged: 0,
            aside: false,
        }
    }

    /// One that another process has left, if it is of this ledger.
    pub(super) fn found(path: PathBuf, ledger: &LedgerIdentity) -> io::Result<Result<Self, Whose>> {
        let mut file = BufReader::with_capacity(READ_BYTES, File::open(&path)?);
        let mut segment = Self::new(path);
        let mut line = Vec::new();
        segment.len = file.read_until(b'\n', &mut line)? as u64;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        // A damaged header says nothing: then the file's name does.
        if let Some(Line::Header(header)) = format::parse(text)
            && header.whose(ledger) != Whose::Ours
        {
            return Ok(Err(header.whose(ledger)));
        }
        let mut lines = u64::from(line.ends_with(b"\n"));
        let mut ended = lines > 0 || line.is_empty();
        loop {
            let bytes = file.fill_buf()?;
            let Some(last) = bytes.last() else {
                break;
            };
            ended = *last == b'\n';
            lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            let n = bytes.len();
            segment.len += n as u64;
            file.consume(n);
        }
        segment.lines = lines + u64::from(!ended);
        Ok(Ok(segment))
    }

    /// Lines were appended.
    pub(super) fn grow(&mut self, bytes: u64, lines: u64) {
        self.len += bytes;
        self.lines += lines;
    }

    /// How many entries are not done.
    pub(super) fn rows(&self) -> u64 {
        if self.is_finished() {
            return 0;
        }
        self.lines.saturating_sub(self.read.line.max(1))
    }

    /// Whether all of it is done.
    pub(super) fn is_finished(&self) -> bool {
        self.read.offset >= self.len
    }

    /// Whether there is nothing more to be had of it.
    pub(super) fn is_over(&self) -> bool {
        self.aside || self.is_finished()
    }

    /// The place behind its last line.
    pub(super) fn end(&self) -> Place {
        Place {
            offset: self.len,
            line: self.lines,
        }
    }

    /// Up to `place` all is done.
    pub(super) fn done(&mut self, place: Place) {
        self.read = self.read.max(place);
        if self.is_finished() && self.damaged > MAX_NAMED {
            let (file, lines) = (self.path.display(), self.damaged);
            tracing::error!(%file, lines, "so many lines of the spill journal were damaged in all");
        }
    }

    /// It cannot be read.
    pub(super) fn set_aside(&mut self) {
        self.aside = true;
    }

    /// Reads on from what is done, until enough is taken; gives back where that was.
    pub(super) fn read(
        &mut self,
        file: File,
        taken: &mut Taken,
        max_entries: usize,
        max_bytes: u64,
    ) -> io::Result<Place> {
        let mut place = self.read;
        let mut file = BufReader::with_capacity(READ_BYTES, file);
        file.seek(SeekFrom::Start(place.offset))?;
        let mut file = file.take(self.len - place.offset);
        let mut line = Vec::new();
        while taken.entries.len() < max_entries && taken.bytes < max_bytes {
            line.clear();
            let n = file.read_until(b'\n', &mut line)? as u64;
            if n == 0 {
                if place.offset < self.len {
                    taken.damaged += self.cut_short(place);
                    place = self.end();
                }
                break;
            }
            place.line += 1;
            place.offset += n;
            taken.bytes += n;
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let damaged = format::read_lines(text, |line| {
                if let Line::Entry(entry) = line {
                    taken.entries.push(entry);
                }
            });
            if place.offset > self.examined {
                self.examined = place.offset;
                taken.damaged += damaged as u64;
                self.note_damage(damaged as u64, place.line);
            }
        }
        Ok(place)
    }

    /// Somebody cut the file off; gives back how many lines that costs.
    fn cut_short(&self, at: Place) -> u64 {
        let (file, lines) = (self.path.display(), self.lines.saturating_sub(at.line));
        tracing::error!(%file, lines, "a segment of the spill journal is shorter than it was");
        lines
    }

    fn note_damage(&mut self, damaged: u64, line: u64) {
        if damaged == 0 {
            return;
        }
        self.damaged += damaged;
        if self.damaged <= MAX_NAMED {
            let file = self.path.display();
            tracing::error!(
                %file, line,
                "a damaged line of the spill journal is skipped: cut off by a crash, or the disk is at fault"
            );
        }
    }
}

/// A file that is being written; the disk can be replaced in tests.
pub(super) trait SegmentFile: Send {
    /// Appends all of it.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Takes back what lies behind `len`.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Waits until it would survive a power cut.
    fn sync(&mut self) -> io::Result<()>;
}

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(self, bytes)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// How the journal makes its files.
pub(super) type MakeFile = Box<dyn Fn(&Path) -> io::Result<Box<dyn SegmentFile>> + Send>;

/// On the disk.
pub(super) fn make_file() -> MakeFile {
    Box::new(|path| Ok(Box::new(super::folder::new_file().open(path)?)))
}
