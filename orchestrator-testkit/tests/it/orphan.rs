//! A broker must not outlive its process, however that ends, unless it is told to stay.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orchestrator_testkit::kafka::{Detached, Kafka, KafkaOptions};

const ROLE: &str = "ORCH_TESTKIT_TEST_ROLE";

/// Not a test: what the tests below run in a process of its own, by running this binary again.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let kafka = Kafka::start(KafkaOptions::new().local()).unwrap();
    println!("\nfolder={}", kafka.folder().unwrap().display());
    println!("bootstrap={}", kafka.bootstrap_servers());
    if role == "detach" {
        let Detached::Process { supervisor, .. } = kafka.detach().unwrap() else {
            panic!("local")
        };
        println!("supervisor={supervisor}");
    } else {
        std::thread::sleep(Duration::from_secs(120));
    }
}

struct Parent {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Parent {
    fn start(role: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "orphan::child_process", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn value_of(&mut self, key: &str) -> String {
        let prefix = format!("{key}=");
        let value = self
            .lines
            .find_map(|l| Some(l.unwrap().strip_prefix(&prefix)?.to_owned()));
        value.expect("the child said nothing")
    }

    fn signal(&mut self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
        self.process.wait().unwrap();
    }
}

fn processes_naming(folder: &str) -> Vec<String> {
    let output = Command::new("ps")
        .args(["-ww", "-e", "-o", "args="])
        .output()
        .unwrap();
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    all.lines()
        .filter(|line| line.contains(folder))
        .map(str::to_owned)
        .collect()
}

fn await_that(what: &str, condition: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < give_up, "waited 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ends_with_its_process(signal: &str) {
    let mut parent = Parent::start("hold");
    let (folder, bootstrap) = (parent.value_of("folder"), parent.value_of("bootstrap"));
    assert!(TcpStream::connect(&bootstrap).is_ok());
    // The shell that watches, and the JVM.
    assert_eq!(processes_naming(&folder).len(), 2);
    parent.signal(signal);
    await_that("the folder goes", || !PathBuf::from(&folder).exists());
    await_that("the processes go", || processes_naming(&folder).is_empty());
    assert!(TcpStream::connect(&bootstrap).is_err());
}

#[test]
fn no_orphan_after_sigkill() {
    ends_with_its_process("-KILL");
}

#[test]
fn no_orphan_after_ctrl_c() {
    ends_with_its_process("-INT");
}

#[test]
fn a_detached_broker_stays_until_it_is_stopped() {
    let mut parent = Parent::start("detach");
    let (folder, bootstrap) = (parent.value_of("folder"), parent.value_of("bootstrap"));
    let supervisor = parent.value_of("supervisor").parse().unwrap();
    assert!(parent.process.wait().unwrap().success());
    assert!(TcpStream::connect(&bootstrap).is_ok());

    let broker = Detached::Process {
        supervisor,
        folder: folder.clone().into(),
        bootstrap_servers: bootstrap.clone(),
    };
    let somebody_else = Detached::Process {
        supervisor: std::process::id(),
        folder: folder.clone().into(),
        bootstrap_servers: bootstrap.clone(),
    };
    assert!(
        !somebody_else.is_running().unwrap(),
        "a pid that is not the broker's"
    );
    assert!(!somebody_else.stop().unwrap());

    assert!(broker.is_running().unwrap());
    assert!(broker.stop().unwrap());
    assert!(!broker.stop().unwrap());
    assert!(TcpStream::connect(&bootstrap).is_err());
    assert!(!PathBuf::from(&folder).exists());
}
