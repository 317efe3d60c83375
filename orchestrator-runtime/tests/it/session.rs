//! The Kafka session on a real broker: gathering, joining and leaving, lost offsets, pausing, back-pressure.

mod driver;
mod flow;
mod membership;
mod offsets;
