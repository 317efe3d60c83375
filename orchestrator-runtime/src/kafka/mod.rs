//! Kafka behind the two ports: the session (poll thread) and the committer (transaction thread).

pub mod classify;
pub mod committer;
mod deliveries;
mod ffi;
pub mod membership;
pub mod producer;
pub mod stop;
pub mod topics;
pub mod transactor;
