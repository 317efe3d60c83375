//! Tests of the choice between the ways, with tools that do not exist or only pretend to.
#![allow(clippy::unwrap_used)]

use super::*;

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
