//! The transaction thread's loop over a producer that fails as told: no Kafka.

use std::collections::BTreeMap;
use std::time::Instant;

use orchestrator_core::ports::{Epoch, UnitSlice};
use orchestrator_core::{Output, Record, SourcePartition};

use super::super::transactor::{NextOffset, RefusedOutput, TxnClass, TxnError};
use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bad {
    Nothing,
    Replace,
    PanicInReplace,
    PanicInCommit,
    Fenced,
}

struct Fake(Bad);

impl TransactionalProducer for Fake {
    type Metadata = ();

    fn replace(&mut self) -> Result<(), TxnError> {
        match self.0 {
            Bad::PanicInReplace => panic!("no producer"),
            Bad::Replace => Err(TxnError {
                class: TxnClass::Repeat,
                message: "nobody there".to_owned(),
            }),
            _ => Ok(()),
        }
    }
    fn begin(&mut self) -> Result<(), TxnError> {
        Ok(())
    }
    fn send(&mut self, _: usize, _: &Record, _: &Output) -> Result<(), RefusedOutput> {
        Ok(())
    }
    fn flush(&mut self) -> Result<Vec<RefusedOutput>, TxnError> {
        Ok(Vec::new())
    }
    fn send_offsets(&mut self, _: &[NextOffset], (): &()) -> Result<(), TxnError> {
        Ok(())
    }
    fn commit(&mut self) -> Result<(), TxnError> {
        match self.0 {
            Bad::PanicInCommit => panic!("a bug of {}", 42),
            Bad::Fenced => Err(TxnError {
                class: TxnClass::Fenced,
                message: "another producer".to_owned(),
            }),
            _ => Ok(()),
        }
    }
    fn abort(&mut self) -> Result<(), TxnError> {
        Ok(())
    }
    fn committed(
        &mut self,
        _: &BTreeSet<SourcePartition>,
    ) -> Result<BTreeMap<SourcePartition, Option<i64>>, TxnError> {
        Ok(BTreeMap::new())
    }
    fn disconnected(&self) -> bool {
        false
    }
    fn transaction_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }
    fn now(&self) -> Instant {
        Instant::now()
    }
    fn pause(&mut self, _: u32) -> bool {
        false
    }
}

/// Submits three units, one after the other; gives their reports.
fn reports_of(bad: Bad) -> Vec<Report> {
    let membership = Arc::new(Membership::default());
    let partition = SourcePartition::new("t", 0);
    let epoch = Epoch(1);
    membership.refresh(Some(()));
    membership.own(partition.clone(), epoch, 0);
    let (submit, units) = units::channel();
    let (report, mut reports) = mpsc::unbounded_channel();
    let transactor = Transactor::new(Fake(bad), membership.clone(), ());
    for from in 0..3 {
        let slice = UnitSlice {
            partition: partition.clone(),
            epoch,
            from,
            next: from + 1,
            done: Vec::new(),
            mark: None,
        };
        submit
            .send(Unit {
                slices: vec![slice],
            })
            .unwrap();
    }
    drop(submit);
    let fenced: FenceJudge = Box::new(|error| SessionFailure::Broken(format!("judged: {error}")));
    run(
        transactor,
        &membership,
        &fenced,
        &units,
        Inbox::default(),
        &report,
    );
    drop(report);
    // Nobody waits for a transaction that is no more.
    assert!(membership.revoke(&[partition], Duration::ZERO));
    std::iter::from_fn(|| reports.blocking_recv()).collect()
}

#[track_caller]
fn check_broken(bad: Bad, because: &str) {
    let reports = reports_of(bad);
    assert_eq!(reports.len(), 3);
    for (from, report) in (0..).zip(reports) {
        assert_eq!(report.unit.slices[0].from, from);
        assert_eq!(report.fates, [SliceFate::Stripped]);
        match report.ended {
            Some(SessionFailure::Broken(why)) => assert!(why.contains(because), "{why}"),
            ended => panic!("{ended:?}"),
        }
    }
}

#[test]
fn every_unit_is_reported() {
    for report in reports_of(Bad::Nothing) {
        assert_eq!(report.fates, [SliceFate::Committed]);
        assert_eq!(report.ended, None);
    }
}

#[test]
fn a_panic_is_reported_with_its_unit_and_with_all_later_ones() {
    check_broken(Bad::PanicInCommit, "a bug of 42");
    check_broken(Bad::PanicInReplace, "no producer");
}

#[test]
fn a_thread_that_is_told_to_stop_reports_what_it_was_about() {
    check_broken(Bad::Replace, "nobody there");
}

#[test]
fn what_a_fence_means_is_asked() {
    check_broken(Bad::Fenced, "judged: another producer");
}
