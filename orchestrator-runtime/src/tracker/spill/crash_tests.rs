//! Tests of the journal against crashes and bad disks: files cut off anywhere, bytes that rot, disks that fill up, a
//! process killed while it writes.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::fake_store::identity;
use super::folder::new_file;
use super::segment::SegmentFile;
use super::tests::{drain, drained_offsets, failures, files, offset, open};
use super::*;

/// The bytes of a segment with `n` entries, and its file's name.
fn segment_of(n: i64) -> (Vec<u8>, String) {
    let dir = TempDir::new().unwrap();
    open(&dir).append(&failures(0..n)).unwrap();
    let path = &files(&dir, ".jsonl")[0];
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    (fs::read(path).unwrap(), name)
}

/// What a journal makes of a segment that a dead process left: the entries, and how many lines were damaged.
fn adopted(journal: &mut Journal, dir: &TempDir, bytes: &[u8], name: &str) -> (Vec<Entry>, u64) {
    fs::write(dir.path().join(name), bytes).unwrap();
    let damaged = journal.damaged();
    journal.adopt().unwrap();
    let entries = drain(journal);
    assert!(files(dir, ".jsonl").is_empty());
    assert_eq!(files(dir, "").len(), 1, "our own lock");
    (entries, journal.damaged() - damaged)
}

#[test]
fn cut_off_anywhere_it_loses_the_torn_entry_only() {
    let (whole, name) = segment_of(2);
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    // Without its end a line is whole all the same.
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    for len in 0..=whole.len() {
        let lines = ends.iter().filter(|end| **end <= len).count();
        let is_torn = len > 0 && !ends.iter().any(|end| len == *end || len == end + 1);
        let expected = failures(0..lines.saturating_sub(1) as i64);
        let (entries, damaged) = adopted(&mut journal, &dir, &whole[..len], &name);
        assert_eq!(entries, expected, "cut off at {len}");
        assert_eq!(damaged, u64::from(is_torn), "cut off at {len}");
    }
}

#[test]
fn one_byte_changed_anywhere_costs_its_line_only() {
    let (whole, name) = segment_of(2);
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    let mut line = 0;
    for at in 0..whole.len() {
        let is_end = whole[at] == b'\n';
        for by in [0x01, b'\n' ^ whole[at]] {
            if by == 0 {
                continue;
            }
            let mut bytes = whole.clone();
            bytes[at] ^= by;
            // The first line is the header; a line's end belongs to no entry.
            let lost = (line > 0 && !is_end).then(|| line - 1);
            let expected: Vec<i64> = (0..2).filter(|offset| Some(*offset) != lost).collect();
            let (entries, damaged) = adopted(&mut journal, &dir, &bytes, &name);
            let offsets: Vec<i64> = entries.iter().map(offset).collect();
            assert_eq!(offsets, expected, "{by:#x} at {at}");
            assert_eq!(damaged > 0, !is_end, "{by:#x} at {at}");
        }
        line += i64::from(is_end);
    }
}

proptest! {
    #[test]
    fn random_damage_loses_no_line_that_it_spared(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let (whole, name) = segment_of(20);
        let mut bytes = whole.clone();
        for (at, byte) in &damage {
            bytes[at.index(whole.len())] = *byte;
        }
        let mut spared = Vec::new();
        let mut start = 0;
        for (n, line) in whole.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let end = start + line.len();
            // Its neighbours' ends count: two that are joined by more than one changed byte may both be lost.
            if n > 0 && bytes[start - 1..end] == whole[start - 1..end] {
                spared.push(n as i64 - 1);
            }
            start = end;
        }
        let dir = TempDir::new().unwrap();
        let (drained, _) = adopted(&mut open(&dir), &dir, &bytes, &name);
        prop_assert!(drained.iter().all(|entry| failures(0..20).contains(entry)));
        let offsets: Vec<i64> = drained.iter().map(offset).collect();
        prop_assert!(spared.iter().all(|offset| offsets.contains(offset)), "{spared:?} {offsets:?}");
        prop_assert!(offsets.is_sorted());
    }
}

/// A disk with so much room.
struct SmallDisk {
    file: File,
    room: Arc<AtomicU64>,
    cuts: bool,
}

impl SegmentFile for SmallDisk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = self.room.load(Relaxed);
        let n = room.min(bytes.len() as u64);
        self.file.write_all(&bytes[..n as usize])?;
        self.room.store(room - n, Relaxed);
        if n < bytes.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        if !self.cuts {
            return Err(io::Error::other("no"));
        }
        let before = self.file.metadata()?.len();
        self.file.set_len(len)?;
        self.room.fetch_add(before - len, Relaxed);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn on_a_small_disk(dir: &Path, cuts: bool) -> (Journal, Arc<AtomicU64>) {
    let room = Arc::new(AtomicU64::new(0));
    let disk = room.clone();
    let make_file = move |path: &Path| -> io::Result<Box<dyn SegmentFile>> {
        let file = new_file().open(path)?;
        let room = disk.clone();
        Ok(Box::new(SmallDisk { file, room, cuts }))
    };
    let journal = Journal::open_with(dir, &identity(), 1 << 30, Box::new(make_file)).unwrap();
    (journal, room)
}

#[test]
fn a_full_disk_is_told_and_what_was_taken_stays_whole() {
    for cuts in [true, false] {
        let dir = TempDir::new().unwrap();
        let (mut journal, room) = on_a_small_disk(dir.path(), cuts);
        let error = journal.append(&failures(0..1)).unwrap_err().to_string();
        assert!(
            error.contains("ORCH_SPILL_DIR") && error.contains("space"),
            "{error}"
        );
        assert!(
            files(&dir, ".jsonl").is_empty(),
            "half a segment is removed"
        );
        assert!(journal.is_empty());

        room.store(2000, Relaxed);
        assert_eq!(journal.append(&failures(0..3)).unwrap(), 3);
        journal.append(&failures(3..100)).unwrap_err();
        assert_eq!(journal.rows(), 3);
        room.store(1 << 20, Relaxed);
        assert_eq!(journal.append(&failures(100..102)).unwrap(), 2);
        assert_eq!(files(&dir, ".jsonl").len(), if cuts { 1 } else { 2 });

        let batch = journal.peek(1).unwrap();
        assert_eq!(batch.entries, failures(0..1));
        // The next process finds all that was taken; half a line that could not be taken back is passed over.
        drop(journal);
        let mut journal = open(&dir);
        let offsets = drained_offsets(&mut journal);
        let taken: Vec<i64> = offsets
            .into_iter()
            .filter(|o| !(3..100).contains(o))
            .collect();
        assert_eq!(taken, [0, 1, 2, 100, 101]);
        assert_eq!(journal.damaged(), u64::from(!cuts));
    }
}

#[test]
fn a_disk_that_fills_up_on_the_way_takes_a_prefix() {
    let dir = TempDir::new().unwrap();
    let (mut journal, room) = on_a_small_disk(dir.path(), true);
    room.store(3 << 20, Relaxed);
    let entries = failures(0..30_000);
    let taken = journal.append(&entries).unwrap();
    assert!(taken > 1000 && taken < entries.len(), "{taken}");
    journal.append(&entries[taken..]).unwrap_err();
    assert_eq!(drain(&mut journal), &entries[..taken]);
}

/// Not a test: the process that is killed in the next one.
#[test]
#[ignore = "started by the next test"]
fn appends_until_it_is_killed() {
    let Ok(dir) = std::env::var("SPILL_TEST_DIR") else {
        return;
    };
    let mut journal = Journal::open(Path::new(&dir), &identity(), 1 << 30).unwrap();
    for n in (0..).step_by(50) {
        assert_eq!(journal.append(&failures(n..n + 50)).unwrap(), 50);
        println!("\nappended {}", n + 50);
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_appended() {
    let dir = TempDir::new().unwrap();
    for round in 1..=5 {
        let name = concat!(module_path!(), "::appends_until_it_is_killed");
        let (_, name) = name.split_once("::").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env("SPILL_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut appended = 0;
        let mut journal = open(&dir);
        while appended < 1000 * round {
            let line = lines.next().unwrap().unwrap();
            if let Some(n) = line.strip_prefix("appended ") {
                appended = n.parse().unwrap();
                assert_eq!(journal.adopt().unwrap(), 0, "it lives");
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died.
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("appended ") {
                appended = n.parse().unwrap_or(appended);
            }
        }
        assert_eq!(journal.adopt().unwrap(), 1);
        let drained = drain(&mut journal);
        assert!(
            drained.len() as i64 >= appended,
            "{} of {appended}",
            drained.len()
        );
        assert_eq!(drained, failures(0..drained.len() as i64));
        assert!(journal.damaged() <= 1);
    }
}
