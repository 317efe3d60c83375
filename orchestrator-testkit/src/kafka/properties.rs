//! The `server.properties` of a single combined KRaft node, as data.
//!
//! Used by `local.rs` (as a file) and `docker.rs` (as environment). It must never shorten a time-out
//! or loosen a limit: only what one node alone needs is set, so that what passes here passes on a
//! real cluster.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Where the node listens, seen from inside and from outside.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) listen_host: &'static str,
    pub(super) port: u16,
    pub(super) controller_port: u16,
    pub(super) proxied: Option<Proxied>,
}

/// A listener for those who come through a proxy, and are told the proxy's port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proxied {
    pub(super) port: u16,
    pub(super) proxy_port: u16,
}

/// All properties, `extra` over ours.
pub(super) fn server_properties(
    addresses: &Addresses,
    data_dir: &str,
    extra: &[(String, String)],
) -> BTreeMap<String, String> {
    let Addresses {
        listen_host,
        port,
        controller_port,
        proxied,
    } = addresses;
    let mut all: BTreeMap<String, String> = [
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("controller.listener.names", "CONTROLLER"),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        ),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("log.dirs", data_dir),
        ("auto.create.topics.enable", "false"),
        ("default.replication.factor", "1"),
        ("min.insync.replicas", "1"),
        ("offsets.topic.replication.factor", "1"),
        ("offsets.topic.num.partitions", "5"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("transaction.state.log.num.partitions", "5"),
        ("share.coordinator.state.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        ("group.initial.rebalance.delay.ms", "0"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let mut listeners =
        format!("PLAINTEXT://{listen_host}:{port},CONTROLLER://127.0.0.1:{controller_port}");
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    if let Some(Proxied { port, proxy_port }) = proxied {
        listeners += &format!(",PROXIED://{listen_host}:{port}");
        advertised += &format!(",PROXIED://127.0.0.1:{proxy_port}");
    }
    all.insert("listeners".to_owned(), listeners);
    all.insert("advertised.listeners".to_owned(), advertised);
    all.insert(
        "controller.quorum.bootstrap.servers".to_owned(),
        format!("127.0.0.1:{controller_port}"),
    );
    all.extend(extra.iter().cloned());
    all
}

/// As the text of a Java properties file.
pub(super) fn as_file(properties: &BTreeMap<String, String>) -> String {
    properties
        .iter()
        .fold(String::new(), |mut text, (key, value)| {
            // Writing to a String cannot fail.
            writeln!(text, "{key}={}", value.replace('\\', "\\\\")).unwrap_or_default();
            text
        })
}

/// As the environment that the `apache/kafka` image turns back into properties.
pub(super) fn as_docker_environment(properties: &BTreeMap<String, String>) -> Vec<String> {
    properties
        .iter()
        .map(|(key, value)| {
            let name = key
                .replace('-', "___")
                .replace('_', "__")
                .replace('.', "_")
                .to_uppercase();
            format!("KAFKA_{name}={value}")
        })
        .collect()
}
