//! Producer, transactor and committer on a real Kafka.

mod bed;
mod broker;
mod committing;
mod fencing;
mod refused;
mod timings;
