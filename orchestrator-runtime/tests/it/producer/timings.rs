//! What a unit costs: printed, and held against a bound that only a fixed wait would break.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orchestrator_runtime::core::Output;
use orchestrator_runtime::core::ports::SliceFate;
use orchestrator_runtime::kafka::producer::KafkaProducer;
use orchestrator_runtime::kafka::transactor::{Transactor, TransactorObserver};
use orchestrator_testkit::kafka::Kafka;

use super::bed::{Bed, noise, unit};

#[derive(Clone, Default)]
struct Replacements(Arc<Mutex<Vec<&'static str>>>);

impl TransactorObserver for Replacements {
    fn replaced(&mut self, reason: &'static str) {
        self.0.lock().unwrap().push(reason);
    }
}

#[tokio::test]
async fn a_unit_takes_milliseconds() {
    let bed = Bed::new(Kafka::shared().bootstrap_servers(), &[]).await;
    let replacements = Replacements::default();
    let producer = KafkaProducer::new(bed.settings());
    let mut transactor = Transactor::new(producer, bed.membership.clone(), replacements.clone());
    let start = Instant::now();
    transactor.prepare().unwrap();
    println!("initialised in {:?}", start.elapsed());
    let value = noise(300);
    let mut from = 0;
    for (outputs, repeats) in [(0, 200), (1, 200), (10, 200), (1_000, 50), (10_000, 10)] {
        let mut times = Vec::new();
        for _ in 0..repeats {
            let mut slice = bed.slice(0, from, vec![Output::new(value.clone()); outputs]);
            slice.next += 1;
            from = slice.next;
            let mut work = unit(vec![slice]);
            let start = Instant::now();
            assert_eq!(
                transactor.commit(&mut work, &mut ()).0,
                [SliceFate::Committed]
            );
            times.push(start.elapsed());
        }
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!(
            "{outputs:>6} outputs: p50 {:?}, p90 {:?}, p99 {:?}, most {:?}",
            at(50),
            at(90),
            at(99),
            at(100)
        );
        // A commit with deliveries outstanding would cost 100 ms.
        assert!(outputs > 1_000 || at(50) < Duration::from_millis(80));
    }
    // Nothing of an ordinary run is taken for a lost connection. A commit may well be slow on a busy machine.
    let mut replaced = replacements.0.lock().unwrap().clone();
    replaced.retain(|reason| *reason != "slow_commit");
    assert_eq!(replaced, ["start"]);
}
