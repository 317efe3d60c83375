//! Kafka behind the two ports: the session (poll thread) and the committer (transaction thread). The only rooms that
//! know librdkafka.

pub mod classify;
pub(crate) mod client_config;
pub(crate) mod cluster;
pub mod committer;
mod deliveries;
pub(crate) mod ffi;
mod gather;
pub mod membership;
mod offsets;
mod poll;
pub(crate) mod ports;
pub mod producer;
mod rebalance;
pub mod session;
pub(crate) mod status;
pub mod stop;
pub mod topics;
pub mod transactor;
