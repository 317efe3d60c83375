//! The auditor goes along with a program at work: it says nothing while all is well, and what goes wrong later is found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orchestrator_testkit::audit::{Auditor, Client, Kind, Start, exposition};
use orchestrator_testkit::writer::Ending;
use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseRecord, Producer};

use super::pair::{Pair, auditor, begun, name, pass, producer};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn audit_that_follows_finds_what_goes_wrong_later() {
    let pair = Pair::new(10).await;
    pair.come_out(0..5, Ending::Commit).await;
    pair.commit(5);
    let mut following = auditor(pair.scope(Client::new(pair.bootstrap))).await;
    following = pass(following).await;
    Pair::assert_found(&following.verdict(), &[]);
    let counts = following.counts();
    assert_eq!((counts.records, counts.waiting), (10, 10));

    // A copy of a record that is settled, and the next records.
    pair.write_outputs(vec![name(0, 2)], Ending::Commit).await;
    pair.come_out(5..10, Ending::Commit).await;
    pair.send(10..12).await;
    pair.commit(12);
    following = pass(following).await;
    let expected = [(Kind::Doubled, 1), (Kind::Lost, 4)];
    Pair::assert_found(&following.verdict(), &expected);
    // Nothing is told twice.
    following = pass(following).await;
    Pair::assert_found(&following.verdict(), &expected);
    assert_eq!(following.counts().records, 24);
    let text = exposition(&following, &pair.group, None, 0);
    let line = format!(
        "orch_audit_violations_total{{pipeline=\"{}\",kind=\"lost\"}} 4\n",
        pair.group
    );
    assert!(text.contains(&line), "{text}");
}

#[tokio::test]
async fn audit_that_follows_waits_for_an_open_transaction() {
    let pair = Pair::new(2).await;
    pair.come_out(0..1, Ending::Commit).await;
    let producer = begun(&pair, &name(0, 1));
    pair.commit(1);
    let client = Client::new(pair.bootstrap).patience(Duration::from_secs(10));
    let mut following = pass(auditor(pair.scope(client)).await).await;
    let open = [(Kind::OpenTransaction, 1)];
    Pair::assert_found(&following.verdict(), &open);
    assert_eq!(following.counts().records, 0, "nothing is judged meanwhile");
    producer.abort_transaction(MINUTE).unwrap();
    following = pass(following).await;
    Pair::assert_found(&following.verdict(), &open);
    assert_eq!(following.counts().records, 2);
}

#[tokio::test]
async fn audit_from_the_committed_offsets_leaves_the_past_alone() {
    let pair = Pair::new(10).await;
    // Half of it is missing, and some is there twice: before the audit begins.
    pair.come_out(0..3, Ending::Commit).await;
    pair.come_out(0..3, Ending::Commit).await;
    pair.commit(6);
    let mut scope = pair.scope(Client::new(pair.bootstrap));
    scope.start = Start::Committed;
    let mut following = pass(auditor(scope).await).await;
    pair.come_out(6..9, Ending::Commit).await;
    pair.commit(10);
    following = pass(following).await;
    Pair::assert_found(&following.verdict(), &[(Kind::Lost, 2)]);
    assert_eq!(following.counts().records, 8);
}

/// Units of both partitions, each tried twice, the first time in vain, as fast as can be; whatever the auditor sees of
/// that at any moment is as it should be.
#[tokio::test]
async fn audit_of_a_program_at_work_sees_no_ghosts() {
    const RECORDS: i64 = 400;
    const UNIT: i64 = 4;
    let pair = Arc::new(Pair::new(RECORDS).await);
    let done = Arc::new(AtomicBool::new(false));
    let (program, over) = (pair.clone(), done.clone());
    let work = tokio::task::spawn_blocking(move || {
        let (producer, consumer) = (producer(&program), program.consumer());
        for first in (0..RECORDS).step_by(UNIT as usize) {
            for ending in [Ending::Abort, Ending::Commit] {
                producer.begin_transaction().unwrap();
                for n in first..first + UNIT {
                    for key in [name(0, n), name(1, n)] {
                        let record = BaseRecord::to(&program.target).key(&key).payload("out");
                        producer.send(record).map_err(|(error, _)| error).unwrap();
                    }
                }
                let group = consumer.group_metadata().unwrap();
                let next = program.at(first + UNIT);
                producer
                    .send_offsets_to_transaction(&next, &group, MINUTE)
                    .unwrap();
                match ending {
                    Ending::Abort => producer.abort_transaction(MINUTE).unwrap(),
                    Ending::Commit => producer.commit_transaction(MINUTE).unwrap(),
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let scope = pair.scope(Client::new(pair.bootstrap));
    let follow = move || {
        let mut auditor = Auditor::new(scope).unwrap();
        let (mut under_way, mut is_last) = (0, false);
        loop {
            let pass = auditor.pass().unwrap();
            Pair::assert_found(&auditor.verdict(), &[]);
            under_way += u64::from(pass.lag > 0 && auditor.counts().records > 0);
            if is_last {
                return (auditor.counts(), under_way);
            }
            is_last = done.load(Ordering::Relaxed);
        }
    };
    let followed = tokio::task::spawn_blocking(follow).await;
    work.await.unwrap();
    let (counts, under_way) = followed.unwrap();
    assert_eq!((counts.records, counts.waiting), (2 * RECORDS as u64, 0));
    assert!(under_way > 0, "nothing was seen of the program at work");
}
