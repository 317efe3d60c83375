//! Tests of a folder that many use: living and dead processes, other ledgers, other users.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::fake_store::identity;
use super::tests::{MIB, drained_offsets, failures, files, open};
use super::*;

#[test]
fn a_living_process_keeps_its_journal_and_a_dead_ones_is_taken_once() {
    let dir = TempDir::new().unwrap();
    let mut old = open(&dir);
    old.append(&failures(0..3)).unwrap();
    let (mut one, mut two) = (open(&dir), open(&dir));
    assert!(one.is_empty() && two.is_empty());
    one.append(&failures(10..12)).unwrap();
    assert_eq!((one.adopt().unwrap(), two.adopt().unwrap()), (0, 0));
    old.append(&failures(3..4)).unwrap();
    assert_eq!(old.rows(), 4);

    drop(old);
    assert_eq!((one.adopt().unwrap(), two.adopt().unwrap()), (1, 0));
    // The older one comes first, though it was taken later.
    assert_eq!(drained_offsets(&mut one), [0, 1, 2, 3, 10, 11]);
    assert!(two.is_empty());
    assert_eq!(files(&dir, ".lock").len(), 2);
    assert!(files(&dir, ".jsonl").is_empty());
}

#[test]
fn many_who_would_adopt_at_once_share() {
    let dir = TempDir::new().unwrap();
    let dead: Vec<_> = (0..20)
        .map(|n| {
            let mut journal = open(&dir);
            journal.append(&failures(n..n + 1)).unwrap();
            journal
        })
        .collect();
    drop(dead);
    let mut all: Vec<i64> = std::thread::scope(|scope| {
        let adopters: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut journal = open(&dir);
                    drained_offsets(&mut journal)
                })
            })
            .collect();
        let drained = adopters.into_iter().map(|adopter| adopter.join().unwrap());
        drained.flatten().collect()
    });
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
    assert!(files(&dir, "").is_empty());
}

#[test]
fn segments_without_their_lock_file_are_adopted() {
    let dir = TempDir::new().unwrap();
    open(&dir).append(&failures(0..3)).unwrap();
    fs::remove_file(&files(&dir, ".lock")[0]).unwrap();
    assert_eq!(drained_offsets(&mut open(&dir)), [0, 1, 2]);
    assert!(files(&dir, "").is_empty());
}

#[test]
fn another_ledgers_journal_and_strange_files_are_left_alone() {
    let dir = TempDir::new().unwrap();
    let other = LedgerIdentity {
        consumer_group: "other".into(),
        ..identity()
    };
    let mut theirs = Journal::open(dir.path(), &other, MIB).unwrap();
    theirs.append(&failures(0..3)).unwrap();
    drop(theirs);
    // The same, under a name that says it were ours: the header counts.
    let segment = &files(&dir, ".jsonl")[0];
    let own = open(&dir);
    let prefix = &own.folder.segment_path(&SegmentId {
        number: 1,
        journal: "abc".into(),
    });
    fs::copy(segment, prefix).unwrap();
    drop(own);
    // And one of a version to come.
    let text = fs::read_to_string(segment).unwrap();
    let header = "{\"format\":\"orchestrator-spill\",\"version\":2,\"cluster_id\":\"c\",\"consumer_group\":\"g\"";
    let header = format!(
        "{header},\"crc\":\"{:08x}\"}}\n",
        crc32fast::hash(header.as_bytes())
    );
    let newer = prefix.to_str().unwrap().replace("-abc-", "-def-");
    fs::write(newer, header + text.split_once('\n').unwrap().1).unwrap();
    fs::write(dir.path().join("spill-notes.txt"), "mine").unwrap();
    let before: Vec<_> = files(&dir, ".jsonl")
        .iter()
        .map(|f| fs::read(f).unwrap())
        .collect();
    assert_eq!(before.len(), 3);

    let mut journal = open(&dir);
    assert!(journal.is_empty());
    journal.append(&failures(7..8)).unwrap();
    assert_eq!(journal.adopt().unwrap(), 0);
    assert_eq!(drained_offsets(&mut journal), [7]);
    let after: Vec<_> = files(&dir, ".jsonl")
        .iter()
        .map(|f| fs::read(f).unwrap())
        .collect();
    assert_eq!(before, after);
    assert_eq!(
        drained_offsets(&mut Journal::open(dir.path(), &other, MIB).unwrap()),
        [0, 1, 2]
    );
    assert!(dir.path().join("spill-notes.txt").exists());
}

#[cfg(unix)]
#[test]
fn only_this_user_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let spill = dir.path().join("a/spill");
    let mut journal = Journal::open(&spill, &identity(), MIB).unwrap();
    journal.append(&failures(0..1)).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&spill), 0o700);
    let files: Vec<_> = fs::read_dir(&spill)
        .unwrap()
        .map(|f| mode(&f.unwrap().path()))
        .collect();
    assert_eq!(files, [0o600, 0o600]);
}

#[test]
fn a_folder_that_cannot_be_used_is_named_with_the_remedy() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [
        file.clone(),
        file.join("spill"),
        PathBuf::from("/proc/spill"),
    ] {
        let error = Journal::open(&path, &identity(), MIB)
            .unwrap_err()
            .to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("ORCH_SPILL_DIR"), "{error}");
    }
}

#[test]
fn a_journal_whose_lock_file_was_cleaned_away_takes_another_name() {
    let dir = TempDir::new().unwrap();
    let mut journal = open(&dir);
    journal.append(&failures(0..1)).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    journal.end_tail();
    assert_eq!(journal.append(&failures(1..2)).unwrap(), 1);
    assert!(open(&dir).is_empty(), "it is not taken from the living");
    assert_eq!(drained_offsets(&mut journal), [1]);
    drop(journal);
    assert!(files(&dir, "").is_empty());
}
