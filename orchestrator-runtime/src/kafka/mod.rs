//! Kafka behind the two ports: the session (poll thread) and the committer (transaction thread).

pub(crate) mod ffi;
mod gather;
pub mod membership;
mod offsets;
mod poll;
mod rebalance;
pub mod session;
mod status;
pub mod transactor;
