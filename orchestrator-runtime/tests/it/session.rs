//! The Kafka session on a real broker: gathering, joining and leaving, lost offsets, pausing, back-pressure.

mod crew;
mod driver;
mod flow;
mod identity;
mod membership;
mod offsets;
