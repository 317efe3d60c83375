//! Waits until a broker really answers.
//!
//! Called after every start, restart and attach. An open port is not enough: the broker must list
//! itself in its own metadata, which it does once it is unfenced and may lead partitions.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::error::KafkaError;

const PAUSE: Duration = Duration::from_millis(20);

/// Waits until the broker lists itself; `alive` is asked in between and may end the wait.
pub(super) fn wait_until_ready(
    bootstrap: &str,
    deadline: Duration,
    remedy: &str,
    mut alive: impl FnMut() -> Result<(), KafkaError>,
) -> Result<(), KafkaError> {
    let give_up = Instant::now() + deadline;
    let unreachable = || KafkaError::Unreachable {
        bootstrap: bootstrap.to_owned(),
        deadline,
        remedy: remedy.to_owned(),
    };
    // A bare connect first: librdkafka backs off after a refusal, which costs more than it saves.
    while !bootstrap.split(',').any(accepts) {
        alive()?;
        if Instant::now() >= give_up {
            return Err(unreachable());
        }
        std::thread::sleep(PAUSE);
    }
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        .set("log_level", "0")
        .create()
        .map_err(|_| unreachable())?;
    loop {
        let answer = client.fetch_metadata(None, Duration::from_secs(1));
        if answer.is_ok_and(|metadata| !metadata.brokers().is_empty()) {
            return Ok(());
        }
        alive()?;
        if Instant::now() >= give_up {
            return Err(unreachable());
        }
        std::thread::sleep(PAUSE);
    }
}

fn accepts(address: &str) -> bool {
    let address = address.trim();
    // A listener name such as PLAINTEXT:// may stand before the host.
    let address = address.rsplit_once("://").map_or(address, |(_, rest)| rest);
    address.to_socket_addrs().is_ok_and(|mut all| {
        all.any(|a| TcpStream::connect_timeout(&a, Duration::from_millis(500)).is_ok())
    })
}
