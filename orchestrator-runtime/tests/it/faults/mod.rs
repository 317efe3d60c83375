//! The whole pipeline on a real Kafka while things go wrong: mostly the example app as a process of its own.
//!
//! Every test proves two things by a reader that shares no code with the runtime: that every input came out exactly
//! once, in order, and that the fault really bit. A run in which it did not is a failed test that says so.

mod broker;
mod clock;
pub(crate) mod exact;
mod frozen;
pub(crate) mod given;
mod held;
pub(crate) mod ill_statements;
mod inside;
#[cfg(feature = "test-faults")]
mod kill_points;
mod killed;
pub(crate) mod load;
mod members;
mod metrics;
mod pace;
#[cfg(feature = "test-faults")]
mod planted;
#[cfg(feature = "test-faults")]
mod proxied;
mod quarantine;
mod records;
mod rows;
pub(crate) mod scene;
pub(crate) mod served;
mod soak;
mod storm;
mod topics;
mod twin;
mod two_pipelines;
mod two_topics;
mod zombie;
