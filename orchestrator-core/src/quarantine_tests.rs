//! The search without a worker: lives that end where the test says.

use proptest::prelude::*;

use super::*;

fn quarantine(after: u32, life: u64) -> Quarantine {
    Quarantine {
        after,
        owner: 7,
        life,
    }
}

/// Lets one life after the other work on records from 0 on, until none ends at `killer` any more. Gives the records
/// that were convicted, and how many lives ended.
fn lives(after: u32, killer: i64, records: i64) -> (Vec<i64>, u32) {
    let (mut position, mut mark) = (0, None);
    let mut convicted = Vec::new();
    for life in 0..20 {
        let mut search = quarantine(after, life).begin(position, mark);
        convicted.extend(search.convicted());
        let mut searching = true;
        while position < records {
            let end = if searching {
                if search.limit().is_none_or(|limit| position >= limit) {
                    assert!(search.ask(position));
                    let asked = search.asked().unwrap();
                    search.marked(asked);
                    mark = Some(asked);
                }
                search.limit().unwrap().min(records)
            } else {
                records
            };
            if (position..end).contains(&killer) && !convicted.contains(&killer) {
                break;
            }
            position = end;
            mark = searching.then(|| search.after(position)).flatten();
            match mark {
                Some(mark) => search.marked(mark),
                None => searching = false,
            }
        }
        if position >= records {
            return (convicted, life as u32);
        }
    }
    panic!("{convicted:?} are convicted, and it goes on");
}

#[test]
fn whoever_ends_the_process_is_found_after_so_many_starts() {
    for after in 2..6 {
        for killer in [0, 1, 22, 23, 255, 511] {
            assert_eq!(
                lives(after, killer, 2_000),
                (vec![killer], after),
                "{after}"
            );
        }
    }
}

#[test]
fn whoever_is_beyond_the_widest_search_is_found_by_the_next() {
    let (convicted, _) = lives(3, 512, 2_000);
    assert_eq!(convicted, [512]);
}

#[test]
fn nobody_is_blamed_where_nothing_happens() {
    assert_eq!(lives(3, -1, 2_000), (Vec::new(), 0));
}

#[test]
fn a_mark_is_read_as_it_was_written() {
    let mark = Mark {
        owner: u64::MAX,
        life: 3,
        starts: 2,
        step: 256,
        until: i64::MAX,
    };
    assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
    for other in [
        "",
        "orchestrator-1",
        "orchestrator-1 1 2 3 4",
        "orchestrator-1 1 2 3 4 5 6",
        "orchestrator-1 1 2 0 4 5",
        "orchestrator-2 1 2 3 4 5",
        "AAAB",
    ] {
        assert_eq!(Mark::parse(other), None, "{other}");
    }
}

fn alone(owner: u64, life: u64) -> Option<Mark> {
    Some(Mark {
        owner,
        life,
        starts: 3,
        step: 1,
        until: 11,
    })
}

#[test]
fn a_mark_of_another_process_or_of_the_same_life_convicts_nobody() {
    for mark in [alone(8, 1), alone(7, 2)] {
        let search = quarantine(3, 2).begin(10, mark);
        assert_eq!((search.convicted(), search.starts()), (None, 3));
        assert!(search.is_alone());
    }
    let convicted = quarantine(3, 2).begin(10, alone(7, 1));
    assert_eq!(
        (convicted.convicted(), convicted.is_alone()),
        (Some(10), false)
    );
}

#[test]
fn a_mark_behind_the_position_is_old() {
    let search = quarantine(3, 2).begin(11, alone(7, 1));
    assert_eq!((search.starts(), search.convicted()), (1, None));
}

#[test]
fn a_search_for_many_does_not_convict_when_fewer_starts_are_asked_for() {
    let mark = alone(7, 1).map(|mark| Mark { step: 40, ..mark });
    let search = quarantine(2, 2).begin(10, mark);
    assert_eq!((search.convicted(), search.is_alone()), (None, true));
}

#[test]
fn gaps_are_no_records() {
    let mut search = quarantine(3, 2).begin(
        0,
        Some(Mark {
            step: 9,
            ..alone(7, 1).unwrap()
        }),
    );
    assert!(search.is_alone());
    assert!(search.ask(6));
    assert_eq!(search.asked().map(|mark| mark.until), Some(7));
    assert!(!search.ask(11), "nothing is suspected there");
}

proptest! {
    /// Anybody may commit offsets of the group, with whatever beside them.
    #[test]
    fn any_metadata_is_read_without_panic(
        text in prop_oneof![
            ".*",
            "orchestrator-1[ 0-9a-f-]{0,80}",
            "orchestrator-1( [0-9a-f]{1,17}){2}( [0-9]{1,11}){2} -?[0-9]{1,20}",
        ],
        position in 0..=i64::MAX,
        life in 0..3_u64,
        next in 0..=i64::MAX,
    ) {
        let mark = Mark::parse(&text);
        if let Some(mark) = mark {
            prop_assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }
        let mark = mark.map(|mark| Mark { owner: 7, ..mark });
        let mut search = quarantine(3, life).begin(position, mark);
        prop_assert!(search.convicted().is_none_or(|convicted| convicted >= position));
        search.ask(next);
        for mark in [search.asked(), search.after(next)].into_iter().flatten() {
            prop_assert!(mark.starts > 0 && mark.step > 0);
            search.marked(mark);
        }
    }
}
