//! A record that aborts the process each time it is transformed: processes that are started again and again find it,
//! and nothing else is lost, doubled or blamed.

use orchestrator_testkit::orders::Orders;

use super::exact::{Fate, Input};
use super::scene::{LIMIT, Scene, drain, shared};

const ORDERS: u64 = 3_000;
const PARTITIONS: i32 = 3;
/// `ORCH_CRASH_QUARANTINE_AFTER`, and the first, which may die in the middle of its work.
const RESTARTS_MAX: u32 = 4;

async fn write(scene: &Scene, killers: &[u64]) -> Vec<Input> {
    let orders = Orders::new(11).range(0..ORDERS).map(|order| {
        let kills = killers.contains(&order.index);
        let partition = (order.index % PARTITIONS as u64) as i32;
        let record = order.into_record().partition(partition);
        if kills {
            return (record.header("x-fault", "exit"), Fate::DeadLetter);
        }
        let fate = Fate::of_order(record.value.as_deref().unwrap());
        (record, fate)
    });
    scene.write(0, orders.collect()).await
}

/// Starts it again and again until all is passed; gives how often it had to be.
async fn restarts_until_passed(scene: &Scene, inputs: &[Input]) -> u32 {
    for restarts in 0.. {
        let app = scene.start("solo");
        let ended = tokio::select! {
            status = app.wait(LIMIT) => Some(status.unwrap()),
            () = scene.wait_until_passed(inputs) => None,
        };
        match ended {
            Some(status) => assert_eq!(status.code(), None, "it was not aborted: {status}"),
            None => {
                drain(&app).await;
                return restarts;
            }
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_aborts_the_process_is_found() {
    for killer in [0, 1_600] {
        let scene = Scene::new(shared(), 1, PARTITIONS).await;
        let inputs = write(&scene, &[killer]).await;
        let restarts = restarts_until_passed(&scene, &inputs).await;
        assert!(restarts <= RESTARTS_MAX, "{restarts} restarts");
        scene.judge(&inputs).await.unwrap();
    }
}
