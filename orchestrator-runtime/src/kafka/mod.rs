//! Kafka behind the two ports: the session (poll thread) and the committer (transaction thread). The only rooms that
//! know librdkafka.

#[allow(dead_code)]
pub(crate) mod client_config;
pub mod membership;
pub mod transactor;
