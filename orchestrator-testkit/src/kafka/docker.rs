//! A broker in a container of ours.
//!
//! Called by `mod.rs` where a Docker engine runs. A shell (`server/supervisor.rs`) starts the container and
//! removes it once we are gone; its faults (kill, pause) are left to the JVM kind.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::error::KafkaError;
use super::fetch::KAFKA_VERSION;
use super::options::{KafkaOptions, Tools};
use super::properties::{Addresses, as_docker_environment, server_properties};
use super::ready::wait_until_ready;
use crate::command::output_within;
use crate::server::{Supervisor, free_port};

/// $1 docker, $2 name of the container, then the rest of `docker run`.
const SCRIPT: &str = r#"
docker=$1; name=$2; shift 2
finish() { trap '' HUP INT TERM; "$docker" rm --force --volumes "$name" >/dev/null 2>&1; exit 0; }
trap finish HUP INT TERM
if why=$("$docker" run --detach --name "$name" "$@" 2>&1 </dev/null); then
    echo ok
else
    echo "failed: $(echo "$why" | tail -n 1)"
fi
while read -r command; do
    case $command in
    detach) echo "ok"; exit 0 ;;
    esac
done
finish
"#;

const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// The first time, the image is pulled.
const RUN_DEADLINE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct DockerBroker {
    supervisor: Mutex<Supervisor>,
    name: String,
    bootstrap: String,
}

/// Whether an engine runs; if not, why. A client alone answers `docker --version` happily.
pub(super) fn at_hand(docker: &Path) -> Result<(), String> {
    let mut command = Command::new(docker);
    command.args(["info", "--format", "{{.ServerVersion}}"]);
    let output = output_within(&mut command, PROBE_DEADLINE)
        .map_err(|e| format!("{} info: {e}", docker.display()))?;
    // Some clients exit with 0 and an empty version when the engine is away.
    if output.status.success() && !output.stdout.trim_ascii().is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{} info: {}",
        docker.display(),
        text.lines().next_back().unwrap_or("no engine")
    ))
}

impl DockerBroker {
    pub(super) fn start(options: &KafkaOptions, tools: &Tools) -> Result<Self, KafkaError> {
        let port = free_port().map_err(KafkaError::io("find a port"))?;
        let name = format!("orchestrator-kafka-{}-{port}", std::process::id());
        let addresses = Addresses {
            listen_host: "0.0.0.0",
            port,
            controller_port: 9093,
            proxied: None,
        };
        let properties =
            server_properties(&addresses, "/tmp/kraft-combined-logs", &options.properties);

        let mut arguments: Vec<OsString> = vec![tools.docker.clone().into(), name.clone().into()];
        arguments.extend([
            "--publish".into(),
            format!("127.0.0.1:{port}:{port}").into(),
        ]);
        let heap = format!("KAFKA_HEAP_OPTS=-Xmx{}", options.heap);
        for variable in as_docker_environment(&properties).into_iter().chain([heap]) {
            arguments.extend(["--env".into(), variable.into()]);
        }
        arguments.push(format!("apache/kafka:{KAFKA_VERSION}").into());

        let mut supervisor = Supervisor::spawn(SCRIPT, arguments)
            .map_err(KafkaError::io("start a shell for the container"))?;
        supervisor
            .reply(RUN_DEADLINE)
            .map_err(KafkaError::io(format!("run the container {name}")))?;
        let broker = Self {
            supervisor: Mutex::new(supervisor),
            bootstrap: format!("127.0.0.1:{port}"),
            name,
        };
        let remedy = format!("see docker logs {}", broker.name);
        wait_until_ready(
            &broker.bootstrap,
            options.start_deadline,
            &remedy,
            || Ok(()),
        )?;
        Ok(broker)
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Leaves the container to itself; returns its name.
    pub(super) fn detach(self) -> Result<String, KafkaError> {
        self.supervisor
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .ask("detach", PROBE_DEADLINE)
            .map_err(KafkaError::io(format!(
                "detach the container {}",
                self.name
            )))?;
        Ok(self.name)
    }
}
