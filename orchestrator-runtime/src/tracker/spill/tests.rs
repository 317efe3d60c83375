//! Tests of the journal on a real folder: order, bound, segments, restarts.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use orchestrator_core::Topic;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::fake_store::{failed, identity, orders};
use super::append::SEGMENT_BYTES;
use super::*;

pub(super) const MIB: u64 = 1024 * 1024;

pub(super) fn open(dir: &TempDir) -> Journal {
    Journal::open(dir.path(), &identity(), 64 * MIB).unwrap()
}

pub(super) fn failure(offset: i64) -> Entry {
    Entry::Failed(Box::new(LedgerRow::failed(&failed(offset, 1), true)))
}

fn large(offset: i64, bytes: usize) -> Entry {
    let row = LedgerRow::failed(&failed(offset, 1), true);
    Entry::Failed(Box::new(LedgerRow {
        payload: Some(vec![b'x'; bytes].into()),
        ..row
    }))
}

pub(super) fn failures(offsets: std::ops::Range<i64>) -> Vec<Entry> {
    offsets.map(failure).collect()
}

pub(super) fn offset(entry: &Entry) -> i64 {
    match entry {
        Entry::Received(row) | Entry::Failed(row) => row.position.offset,
        Entry::Passed { position, .. } => position.offset,
        Entry::Succeeded { range, .. } => range.from,
    }
}

/// All that waits, which is then done.
pub(super) fn drain(journal: &mut Journal) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let batch = journal.peek(100).unwrap();
        if batch.entries.is_empty() {
            assert!(journal.is_empty());
            assert_eq!(journal.rows(), 0);
            return entries;
        }
        entries.extend(batch.entries.iter().cloned());
        journal.done(batch).unwrap();
    }
}

pub(super) fn drained_offsets(journal: &mut Journal) -> Vec<i64> {
    drain(journal).iter().map(offset).collect()
}

/// The names of the files with this ending.
pub(super) fn files(dir: &TempDir, ending: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.path()).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .collect();
    files.sort();
    files
}

fn size(files: &[PathBuf]) -> u64 {
    files
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

#[test]
fn entries_come_back_in_order_and_stay_until_they_are_done() {
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    assert!(journal.is_empty());
    assert_eq!(journal.append(&failures(0..5)).unwrap(), 5);
    assert_eq!(journal.append(&failures(5..9)).unwrap(), 4);
    assert_eq!((journal.rows(), journal.is_empty()), (9, false));
    assert_eq!(journal.bytes(), size(&files(&dir, ".jsonl")));

    let batch = journal.peek(3).unwrap();
    assert_eq!(batch.entries, failures(0..3));
    assert_eq!(journal.peek(3).unwrap().entries, failures(0..3));
    journal.done(batch).unwrap();
    assert_eq!(journal.rows(), 6);

    // One that was overtaken by another changes nothing.
    let (old, new) = (journal.peek(1).unwrap(), journal.peek(4).unwrap());
    journal.done(new).unwrap();
    journal.done(old).unwrap();
    assert_eq!(drained_offsets(&mut journal), [7, 8]);
    assert_eq!(journal.damaged(), 0);
}

#[test]
fn a_file_that_is_done_is_gone_and_appending_goes_on() {
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    for round in 0..3 {
        journal.append(&failures(round..round + 2)).unwrap();
        let batch = journal.peek(9).unwrap();
        journal.append(&[failure(9)]).unwrap();
        journal.done(batch).unwrap();
        assert_eq!(files(&dir, ".jsonl").len(), 1);
        assert_eq!(drained_offsets(&mut journal), [9]);
        assert!(files(&dir, ".jsonl").is_empty());
        assert_eq!(journal.bytes(), 0);
    }
    drop(journal);
    assert!(files(&dir, "").is_empty(), "not even the lock");
}

#[test]
fn segments_have_a_bound_and_are_removed_one_by_one() {
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    let entries: Vec<_> = (0..30).map(|n| large(n, MIB as usize)).collect();
    assert_eq!(journal.append(&entries).unwrap(), 30);
    let segments = files(&dir, ".jsonl");
    assert_eq!(segments.len(), 5, "7 of a MiB and a bit each");
    for segment in &segments {
        assert!(segment.metadata().unwrap().len() <= SEGMENT_BYTES);
    }
    let batch = journal.peek(1000).unwrap();
    assert!(batch.entries.len() < 10, "bounded in bytes");
    journal.done(batch).unwrap();
    assert_eq!(files(&dir, ".jsonl").len(), 4);
    assert_eq!(drained_offsets(&mut journal), (8..30).collect::<Vec<_>>());
}

#[test]
fn the_bound_is_kept_and_a_prefix_is_taken() {
    let dir = TempDir::new().unwrap();
    let bound = 20_000;
    let mut journal = Journal::open(dir.path(), &identity(), bound).unwrap();
    let taken = journal.append(&failures(0..500)).unwrap();
    assert!((20..200).contains(&taken), "{taken}");
    assert_eq!(journal.append(&failures(500..501)).unwrap(), 0);
    assert_eq!(journal.rows(), taken as u64);
    let used = size(&files(&dir, ""));
    assert!(used <= bound && used > bound - 500, "{used}");

    // Another process of the ledger has no room, and has it once the first is done.
    let mut other = Journal::open(dir.path(), &identity(), bound).unwrap();
    assert_eq!(other.append(&failures(600..601)).unwrap(), 0);
    assert_eq!(drain(&mut journal), failures(0..taken as i64));
    assert_eq!(other.append(&failures(600..601)).unwrap(), 1);
    assert!(journal.append(&failures(0..500)).unwrap() < taken);
    let used = size(&files(&dir, ""));
    assert!(used <= bound && used > bound - 500, "{used}");
    assert_eq!(
        Journal::open(dir.path(), &identity(), 10)
            .unwrap()
            .append(&failures(0..1))
            .unwrap(),
        0
    );
}

#[test]
fn a_restart_replays_what_was_not_done() {
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    journal.append(&failures(0..5)).unwrap();
    let batch = journal.peek(2).unwrap();
    journal.done(batch).unwrap();
    drop(journal);
    for _ in 0..2 {
        let mut journal = open(&dir);
        assert_eq!(journal.rows(), 5, "from the segment's start");
        let batch = journal.peek(2).unwrap();
        journal.done(batch).unwrap();
    }
    let mut journal = open(&dir);
    journal.append(&failures(5..6)).unwrap();
    assert_eq!(drained_offsets(&mut journal), [0, 1, 2, 3, 4, 5]);
    drop(journal);
    assert!(files(&dir, "").is_empty());
}

#[test]
fn a_segment_that_somebody_removed_costs_only_itself() {
    let dir = TempDir::new().unwrap();
    open(&dir).append(&failures(0..3)).unwrap();
    let older = files(&dir, ".jsonl").remove(0);
    let mut journal = open(&dir);
    journal.append(&failures(3..5)).unwrap();
    fs::remove_file(older).unwrap();
    assert_eq!(drained_offsets(&mut journal), [3, 4]);
    assert_eq!(journal.damaged(), 3);

    journal.append(&failures(5..6)).unwrap();
    fs::remove_file(&files(&dir, ".jsonl")[0]).unwrap();
    assert!(journal.peek(9).unwrap().entries.is_empty());
    journal.append(&failures(6..7)).unwrap();
    assert_eq!(drained_offsets(&mut journal), [6]);
}

#[test]
fn a_segment_that_can_never_be_opened_keeps_nothing_from_being_read() {
    let dir = TempDir::new().unwrap();
    open(&dir).append(&failures(0..3)).unwrap();
    let older = files(&dir, ".jsonl").remove(0);
    let mut journal = open(&dir);
    journal.append(&failures(3..5)).unwrap();
    // A link to itself.
    fs::remove_file(&older).unwrap();
    std::os::unix::fs::symlink(&older, &older).unwrap();
    assert_eq!(drained_offsets(&mut journal), [3, 4]);
    assert_eq!((journal.damaged(), journal.is_empty()), (0, true));
    assert!(older.is_symlink(), "it stays for whoever can open it");
}

#[test]
fn a_segment_that_somebody_cut_is_counted() {
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    journal.append(&failures(0..5)).unwrap();
    let file = fs::File::options()
        .write(true)
        .open(&files(&dir, ".jsonl")[0])
        .unwrap();
    file.set_len(journal.bytes() * 3 / 5).unwrap();
    let drained = drained_offsets(&mut journal);
    assert_eq!(drained, [0, 1]);
    assert_eq!(journal.damaged(), 3);
}

#[test]
fn a_clock_that_goes_back_keeps_the_order() {
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    let tomorrow_ms = crate::clock::now_ms() + 86_400_000;
    journal.last_number = tomorrow_ms * 1000;
    journal.append(&failures(0..1)).unwrap();
    drop(journal);
    let mut journal = open(&dir);
    journal.append(&failures(1..2)).unwrap();
    journal.end_tail();
    journal.append(&failures(2..3)).unwrap();
    assert_eq!(drained_offsets(&mut journal), [0, 1, 2]);
}

#[test]
fn all_kinds_of_entries_come_back() {
    let dir = TempDir::new().unwrap();
    let partition = SourcePosition {
        partition: orchestrator_core::SourcePartition::new(Topic::new("ord\"ers"), 3),
        offset: 9,
    };
    let entries = vec![
        Entry::Received(Box::new(LedgerRow::failed(&failed(1, 2), false))),
        failure(1),
        Entry::Passed {
            position: partition,
            at_ms: 5,
        },
        Entry::Succeeded {
            range: OffsetRange {
                partition: orders(),
                from: 2,
                next: 10,
            },
            at_ms: 6,
        },
    ];
    open(&dir).append(&entries).unwrap();
    assert_eq!(drain(&mut open(&dir)), entries);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]
    #[test]
    fn whatever_is_appended_comes_back(
        batches in prop::collection::vec(prop::collection::vec(super::format::tests::entry(), 0..5), 0..6),
        restart_after in 0..6usize,
    ) {
        let dir = TempDir::new().unwrap();
        let mut journal = open(&dir);
        for (n, batch) in batches.iter().enumerate() {
            prop_assert_eq!(journal.append(batch).unwrap(), batch.len());
            if n == restart_after {
                drop(journal);
                journal = open(&dir);
            }
        }
        prop_assert_eq!(drain(&mut journal), batches.concat());
        prop_assert_eq!(journal.damaged(), 0);
    }
}
