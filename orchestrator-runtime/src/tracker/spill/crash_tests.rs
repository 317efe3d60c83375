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
use super::tests::{drain, drained_offsets, failure, failures, files, open};
use super::*;

/// The bytes of a segment with `n` entries, and its file's name.
fn segment_of(n: i64) -> (Vec<u8>, String) {
    let dir = TempDir::new().unwrap();
    open(&dir).append(&failures(0..n)).unwrap();
    let path = &files(&dir, ".jsonl")[0];
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    (fs::read(path).unwrap(), name)
}

/// A folder with just this segment in it.
fn folder_with(bytes: &[u8], name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    dir
}

#[test]
fn cut_off_anywhere_it_loses_the_torn_entry_only() {
    let (whole, name) = segment_of(2);
    for len in 0..=whole.len() {
        let dir = folder_with(&whole[..len], &name);
        let mut journal = open(&dir);
        journal.append(&[failure(9)]).unwrap();
        // The last byte of a line is its end, without which it is whole all the same.
        let lines = whole[..len].split_inclusive(|byte| *byte == b'\n');
        let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let entries = ends
            .filter(|(end, _)| *end <= len)
            .count()
            .saturating_sub(1);
        let expected: Vec<_> = failures(0..entries as i64)
            .into_iter()
            .chain([failure(9)])
            .collect();
        assert_eq!(drain(&mut journal), expected, "cut off at {len}");
        let whole_lines = entries + usize::from(entries > 0 || whole[..len].contains(&b'\n'));
        let torn = lines.count() > whole_lines && !whole[..len].ends_with(b"}");
        assert_eq!(journal.damaged(), u64::from(torn), "cut off at {len}");
        drop(journal);
        assert!(files(&dir, "").is_empty(), "cut off at {len}");
    }
}

#[test]
fn one_byte_changed_anywhere_costs_its_line_only() {
    let (whole, name) = segment_of(2);
    let mut line = 0;
    for at in 0..whole.len() {
        for by in [0x01, b'\n' ^ whole[at]] {
            if by == 0 {
                continue;
            }
            let mut bytes = whole.clone();
            bytes[at] ^= by;
            let dir = folder_with(&bytes, &name);
            let mut journal = open(&dir);
            // The first line is the header; a line's end belongs to no entry.
            let lost = (line > 0 && whole[at] != b'\n').then(|| line - 1);
            let expected: Vec<i64> = (0..2).filter(|offset| Some(*offset) != lost).collect();
            assert_eq!(drained_offsets(&mut journal), expected, "{by:#x} at {at}");
            assert_eq!(journal.damaged() > 0, whole[at] != b'\n', "{by:#x} at {at}");
        }
        line += i64::from(whole[at] == b'\n');
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
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
        let dir = folder_with(&bytes, &name);
        let mut journal = open(&dir);
        let drained = drain(&mut journal);
        prop_assert!(drained.iter().all(|entry| failures(0..20).contains(entry)));
        let offsets: Vec<i64> = drained.iter().map(super::tests::offset).collect();
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
