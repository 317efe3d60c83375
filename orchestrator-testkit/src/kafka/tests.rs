//! Tests of the choice between the ways, with tools that do not exist or only pretend to.
#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn no_tools() -> Tools {
    Tools {
        bootstrap_servers: None,
        kafka_libs: None,
        docker: "/nowhere/docker".into(),
        java: "/nowhere/java".into(),
        maven: "/nowhere/mvn".into(),
    }
}

#[test]
fn none_at_hand_names_every_way() {
    let error = Kafka::start_with(&KafkaOptions::new(), &no_tools()).unwrap_err();
    let text = error.to_string();
    for word in [
        "ORCH_BOOTSTRAP_SERVERS",
        "Docker engine",
        "JDK 17",
        "Maven",
        "ORCH_KAFKA_LIBS",
    ] {
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
}

#[test]
fn a_named_broker_that_is_away_is_not_passed_over() {
    let tools = Tools {
        bootstrap_servers: Some("127.0.0.1:1".to_owned()),
        ..no_tools()
    };
    let options = KafkaOptions::new().start_deadline(std::time::Duration::from_millis(50));
    let error = Kafka::start_with(&options, &tools).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(
        error.to_string().contains("ORCH_BOOTSTRAP_SERVERS"),
        "{error}"
    );
}

/// A stand-in for the docker client: it notes how it is called, and answers `info` as told.
fn fake_docker(folder: &Path, info: &str) -> Tools {
    let program = folder.join("docker");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {folder}/calls\ncase $1 in info) {info} ;; esac\n",
        folder = folder.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Tools {
        docker: program,
        ..no_tools()
    }
}

#[test]
fn a_docker_client_without_its_engine_is_not_docker() {
    for info in [
        "echo 'cannot connect to the daemon' >&2; exit 1",
        "echo",
        "exec sleep 60",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let tools = fake_docker(folder.path(), info);
        let error = Kafka::start_with(&KafkaOptions::new(), &tools).unwrap_err();
        assert!(
            matches!(error, KafkaError::NoneAtHand { .. }),
            "{info}: {error}"
        );
    }
}

#[test]
fn a_container_is_run_with_our_properties_and_removed_with_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let tools = fake_docker(folder.path(), "echo 28.2.2");
    // Nothing answers in the pretended container, so the start fails, and that drops it.
    let options = KafkaOptions::new()
        .property("group.min.session.timeout.ms", "1000")
        .start_deadline(std::time::Duration::from_millis(100));
    let error = Kafka::start_with(&options, &tools).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("docker logs orchestrator-kafka-"),
        "{error}"
    );

    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(
        calls[1].starts_with("run --detach --name orchestrator-kafka-"),
        "{}",
        calls[1]
    );
    assert!(calls[1].ends_with("apache/kafka:4.3.1"), "{}", calls[1]);
    for variable in [
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS=1000",
        "KAFKA_PROCESS_ROLES=broker,controller",
        "KAFKA_LISTENERS=PLAINTEXT://0.0.0.0:",
        "KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:",
    ] {
        assert!(
            calls[1].contains(&format!("--env {variable}")),
            "{variable}: {}",
            calls[1]
        );
    }
    assert!(
        calls[2].starts_with("rm --force --volumes orchestrator-kafka-"),
        "{}",
        calls[2]
    );
}
