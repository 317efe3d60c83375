//! A server must not outlive its process, however that ends, unless it is told to stay.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use orchestrator_testkit::database::DatabaseServer;
use orchestrator_testkit::kafka::{Detached, Kafka, KafkaOptions};
use orchestrator_testkit::mariadb::{MariaDb, MariaDbOptions};
use orchestrator_testkit::postgres::{Postgres, PostgresOptions};
use orchestrator_testkit::process::Program;

use crate::pids::{await_that, family_of, runs};

const ROLE: &str = "ORCH_TESTKIT_TEST_ROLE";

/// Not a test: what the tests below run in a process of its own, by running this binary again.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    match role.as_str() {
        "postgres" => hold(&Postgres::start(PostgresOptions::new().own()).unwrap()),
        "mariadb" => hold(&MariaDb::start(MariaDbOptions::new().own()).unwrap()),
        _ => {}
    }
    if role == "program" {
        let program = Program::new("/bin/sh")
            .arg("-c")
            .arg("exec sleep 120")
            .start()
            .unwrap();
        println!("\npid={}", program.pid());
        std::thread::sleep(Duration::from_secs(120));
    }
    let kafka = Kafka::start(KafkaOptions::new().local()).unwrap();
    println!("\nfolder={}", kafka.folder().unwrap().display());
    println!("address={}", kafka.bootstrap_servers());
    if role == "detach" {
        let Detached::Process { supervisor, .. } = kafka.detach().unwrap() else {
            panic!("local")
        };
        println!("supervisor={supervisor}");
    } else {
        std::thread::sleep(Duration::from_secs(120));
    }
}

fn hold(server: &DatabaseServer) {
    println!("\nfolder={}", server.folder().unwrap().display());
    println!("address={}", server.address());
    std::thread::sleep(Duration::from_secs(120));
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

/// Ends a detached broker even if its test fails.
struct Stopped(Detached);

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = self.0.stop() {
            eprintln!("{error}");
        }
    }
}

fn ends_with_its_process(role: &str, signal: &str) {
    let mut parent = Parent::start(role);
    let (folder, address) = (parent.value_of("folder"), parent.value_of("address"));
    assert!(TcpStream::connect(&address).is_ok());
    // The shell that watches, the server, and what that has made.
    let family = family_of(&folder);
    assert!(family.len() >= 2, "{family:?}");
    parent.signal(signal);
    await_that("the folder goes", || !PathBuf::from(&folder).exists());
    await_that("the processes go", || !family.iter().any(|pid| runs(pid)));
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn no_orphan_after_sigkill() {
    ends_with_its_process("hold", "-KILL");
}

#[test]
fn no_orphan_after_ctrl_c() {
    ends_with_its_process("hold", "-INT");
}

#[test]
fn no_database_server_outlives_a_killed_test() {
    ends_with_its_process("postgres", "-KILL");
    ends_with_its_process("mariadb", "-KILL");
}

#[test]
fn no_database_server_outlives_a_ctrl_c() {
    ends_with_its_process("postgres", "-INT");
    ends_with_its_process("mariadb", "-INT");
}

#[test]
fn a_program_under_test_does_not_outlive_a_killed_test() {
    let mut parent = Parent::start("program");
    let pid = parent.value_of("pid");
    assert!(runs(&pid));
    parent.signal("-KILL");
    await_that("the program goes", || !runs(&pid));
}

#[test]
fn a_detached_broker_stays_until_it_is_stopped() {
    let mut parent = Parent::start("detach");
    let (folder, bootstrap) = (parent.value_of("folder"), parent.value_of("address"));
    let supervisor = parent.value_of("supervisor").parse().unwrap();
    assert!(parent.process.wait().unwrap().success());
    assert!(TcpStream::connect(&bootstrap).is_ok());

    let broker = Stopped(Detached::Process {
        supervisor,
        folder: folder.clone().into(),
        bootstrap_servers: bootstrap.clone(),
    });
    let reused_pid = Detached::Process {
        supervisor,
        folder: "/tmp/orchestrator-kafka-long-gone".into(),
        bootstrap_servers: bootstrap.clone(),
    };
    assert!(!reused_pid.is_running().unwrap());
    assert!(!reused_pid.stop().unwrap());

    assert!(broker.0.is_running().unwrap());
    assert!(broker.0.stop().unwrap());
    assert!(!broker.0.stop().unwrap());
    assert!(TcpStream::connect(&bootstrap).is_err());
    assert!(!PathBuf::from(&folder).exists());
}

#[test]
fn a_detached_broker_whose_shell_was_killed_is_found_and_stopped() {
    let mut parent = Parent::start("detach");
    let (folder, bootstrap) = (parent.value_of("folder"), parent.value_of("address"));
    let supervisor = parent.value_of("supervisor");
    assert!(parent.process.wait().unwrap().success());
    assert!(
        Command::new("kill")
            .args(["-KILL", &supervisor])
            .status()
            .unwrap()
            .success()
    );
    await_that("only the JVM is left", || family_of(&folder).len() == 1);
    assert!(TcpStream::connect(&bootstrap).is_ok());

    let broker = Stopped(Detached::Process {
        supervisor: supervisor.parse().unwrap(),
        folder: folder.clone().into(),
        bootstrap_servers: bootstrap.clone(),
    });
    assert!(broker.0.stop().unwrap());
    assert!(TcpStream::connect(&bootstrap).is_err());
    assert!(!PathBuf::from(&folder).exists());
}
