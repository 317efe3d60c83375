//! One to four processes of a group to which things happen at random, one after the other: some at once, some while the
//! others take over. `cargo xtask chaos --what storms` gives the seed and how many.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use orchestrator_testkit::process::{Process, Signal};
use orchestrator_testkit::reader::Isolation;
use orchestrator_testkit::wait;

use super::given;
use super::scene::{LIMIT, Scene, drain, shared};
use super::served::{get, wait_until_all_work};
use super::twin::FENCED;

const PARTITIONS: i32 = 8;
const PER_SECOND: u32 = 1_000;
const MEMBERS_MAX: usize = 4;
/// Longer than a session, and than a transaction may be open.
pub(super) const LONG: Duration = Duration::from_secs(4);
/// For what they say of themselves when they do not work.
const TELLING: Duration = Duration::from_secs(8);

/// What happens to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// One is killed, and starts again under the same name.
    Killed,
    /// One is killed, and starts again when the others have its partitions.
    KilledForLong,
    /// One stands still for less than a session.
    Frozen,
    /// One stands still while the others take over, and goes on.
    FrozenForLong,
    /// One more comes.
    Joins,
    /// One is drained.
    Leaves,
    /// Another of the same name comes, and one of both ends.
    Twin,
}

const ALL: [Event; 7] = [
    Event::Killed,
    Event::KilledForLong,
    Event::Frozen,
    Event::FrozenForLong,
    Event::Joins,
    Event::Leaves,
    Event::Twin,
];

/// A process, and its name.
struct Member {
    name: String,
    process: Process,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(super) struct Storm {
    pub(super) scene: Scene,
    pub(super) random: fastrand::Rng,
    members: Vec<Member>,
    /// The name of a member that lives through it all: it may be frozen, no more.
    spared: Option<String>,
    names: u32,
    bitten: BTreeMap<Event, u64>,
}

impl Storm {
    /// Nobody is there yet.
    pub(super) fn new(scene: Scene, seed: u64) -> Self {
        let scene = scene
            .with("ORCH_HTTP_ADDR", "127.0.0.1:0")
            // What a killed one leaves open keeps the others from its partitions.
            .with("ORCH_KAFKA_PRODUCER_TRANSACTION_TIMEOUT_MS", "2000");
        Self {
            random: fastrand::Rng::with_seed(seed),
            scene,
            members: Vec::new(),
            spared: None,
            names: 0,
            bitten: BTreeMap::new(),
        }
    }

    pub(super) fn join(&mut self) {
        self.names += 1;
        let name = format!("member-{}", self.names);
        self.start(name);
    }

    fn start(&mut self, name: String) {
        let process = self.scene.start(&name);
        self.members.push(Member { name, process });
    }

    /// Whoever came first lives through it all.
    pub(super) fn spare_the_first(&mut self) {
        self.spared = Some(self.members[0].name.clone());
    }

    /// The member that lives through it all.
    pub(super) fn spared(&self) -> &Process {
        let spared = self.members.iter().find(|it| !self.is_mortal(it));
        &spared.unwrap().process
    }

    /// Takes out any of them.
    fn take_any(&mut self) -> Member {
        let which = self.random.usize(0..self.members.len());
        self.members.swap_remove(which)
    }

    /// Takes out any that may end.
    fn take_mortal(&mut self) -> Member {
        let mortal = (0..self.members.len()).filter(|at| self.is_mortal(&self.members[*at]));
        let mortal: Vec<_> = mortal.collect();
        let which = mortal[self.random.usize(0..mortal.len())];
        self.members.swap_remove(which)
    }

    fn is_mortal(&self, member: &Member) -> bool {
        self.spared.as_ref() != Some(&member.name)
    }

    pub(super) fn processes(&self) -> Vec<&Process> {
        self.members.iter().map(|it| &it.process).collect()
    }

    pub(super) async fn wait_until_all_work(&self, records: u64) {
        let processes = self.processes();
        let work = wait_until_all_work(&processes, records);
        // Less than that limit: then nobody would say more than who it was.
        let in_time = tokio::time::timeout(LIMIT - TELLING, work).await;
        if in_time.is_err() {
            self.tell_how_it_stands().await;
            panic!("not all of {:?} work", self.members);
        }
    }

    /// All of them stand still for a while, so that there is much to do afterwards.
    pub(super) async fn all_sleep(&self, time: Duration) {
        self.all_freeze().await;
        tokio::time::sleep(time).await;
        self.all_go_on();
        self.wait_until_all_work(20).await;
    }

    pub(super) async fn all_freeze(&self) {
        freeze(&self.processes()).await;
    }

    pub(super) fn all_go_on(&self) {
        for process in self.processes() {
            process.signal(Signal::Cont).unwrap();
        }
    }

    /// Shows what each of them says of itself, and whether there is anything to do, for whoever has to find out why they
    /// stand still.
    pub(super) async fn tell_how_it_stands(&self) {
        for Member { name, process } in &self.members {
            println!("{name} ({:?}):", process.status());
            println!("{}", get(process, "/health").await);
            let metrics = get(process, "/metrics").await;
            for line in metrics.lines().filter(|line| !line.starts_with('#')) {
                println!("  {line}");
            }
        }
        let (admin, source) = (&self.scene.admin, &self.scene.sources[0]);
        for _ in 0..2 {
            let ends = admin.end_offsets(source, Isolation::Uncommitted).await;
            let committed = admin.committed(&self.scene.group, source).await;
            let members = admin.stable_members(&self.scene.group).await;
            println!(
                "the source ends at {ends:?}, of which is passed {committed:?}; members: {members:?}"
            );
            tokio::time::sleep(TELLING / 4).await;
        }
    }

    /// What may happen with so many of them.
    pub(super) fn any_event(&mut self) -> Event {
        let members = self.members.len();
        let mortal = self.members.iter().any(|it| self.is_mortal(it));
        let fits = |event: &Event| match event {
            Event::Frozen => true,
            Event::Killed | Event::Twin => mortal,
            Event::KilledForLong | Event::Leaves => mortal && members > 1,
            Event::FrozenForLong => members > 1,
            Event::Joins => members < MEMBERS_MAX,
        };
        let fitting: Vec<_> = ALL.into_iter().filter(fits).collect();
        fitting[self.random.usize(0..fitting.len())]
    }

    /// Lets something happen, sees that it has, and waits until all are at work again.
    pub(super) async fn happens(&mut self, event: Event) {
        println!("{event:?} with {:?}", self.members);
        tokio::time::sleep(Duration::from_millis(self.random.u64(0..300))).await;
        match event {
            Event::Joins => self.join(),
            Event::Leaves => drain(&self.take_mortal().process).await,
            Event::Killed | Event::KilledForLong => {
                let Member { name, process } = self.take_mortal();
                process.kill().await.unwrap();
                if event == Event::KilledForLong {
                    // Whosever it was.
                    self.scene.wait_until_caught_up().await;
                }
                self.start(name);
            }
            Event::Frozen => {
                let frozen = self.take_any();
                freeze(&[&frozen.process]).await;
                let time = Duration::from_millis(self.random.u64(10..1_000));
                tokio::time::sleep(time).await;
                frozen.process.signal(Signal::Cont).unwrap();
                self.members.push(frozen);
            }
            Event::FrozenForLong => {
                let frozen = self.take_any();
                freeze(&[&frozen.process]).await;
                let since = Instant::now();
                self.scene.wait_until_caught_up().await;
                tokio::time::sleep(LONG.saturating_sub(since.elapsed())).await;
                frozen.process.signal(Signal::Cont).unwrap();
                self.members.push(frozen);
            }
            Event::Twin => {
                let Member { name, process } = self.take_mortal();
                let twin = self.scene.start(&name);
                let twins = [process, twin];
                wait::until("one of the twins ends", LIMIT, async || {
                    twins.iter().any(|it| it.status().unwrap().is_some())
                })
                .await
                .unwrap();
                for process in twins {
                    match process.status().unwrap() {
                        Some(status) => assert_eq!(status.code(), Some(FENCED), "{process:?}"),
                        None => {
                            let name = name.clone();
                            self.members.push(Member { name, process });
                        }
                    }
                }
                assert!(!self.members.is_empty(), "both twins have ended");
            }
        }
        *self.bitten.entry(event).or_default() += 1;
        self.wait_until_all_work(20).await;
    }

    /// Says how often each has happened.
    pub(super) fn tell(&self) {
        for (event, times) in &self.bitten {
            given::bitten(*times, &format!("{event:?}"));
        }
    }
}

/// Stops processes, and sees that they stand still.
async fn freeze(processes: &[&Process]) {
    for process in processes {
        process.signal(Signal::Stop).unwrap();
    }
    let still = wait::until("they stand still", LIMIT, async || {
        processes.iter().all(|process| process.is_stopped())
    });
    still.await.unwrap();
}

async fn a_storm(scene: Scene) {
    let events = given::times(6);
    let mut storm = Storm::new(scene, given::seed());
    let load = storm.scene.load(PER_SECOND);
    storm.join();
    storm.join();
    storm.wait_until_all_work(20).await;
    for _ in 0..events {
        let event = storm.any_event();
        let began = Instant::now();
        storm.happens(event).await;
        println!("{event:?} was over after {:?}", began.elapsed());
    }
    storm.tell();
    let inputs = load.stop().await;
    storm.scene.finish(&inputs, &storm.processes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_over_an_atomic_pipeline_in_cooperative_sticky() {
    let scene = Scene::new(shared(), 1, PARTITIONS).await;
    a_storm(scene.with("ORCH_FAILURE_MODE", "ATOMIC")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_over_a_pipeline_that_skips_in_kip_848() {
    let scene = Scene::new(shared(), 1, PARTITIONS).await;
    let scene = scene.in_consumer_protocol();
    a_storm(scene.with("ORCH_FAILURE_MODE", "SKIP_AND_LOG")).await;
}
