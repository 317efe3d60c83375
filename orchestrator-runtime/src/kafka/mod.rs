//! Kafka behind the two ports: the session (poll thread) and the committer (transaction thread).

#[allow(dead_code)] // used by the session and the producer
pub(crate) mod ffi;
pub mod membership;
pub mod transactor;
