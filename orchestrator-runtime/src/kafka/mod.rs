//! Kafka behind the two ports: the session (poll thread) and the committer (transaction thread).

pub mod membership;
pub mod transactor;
