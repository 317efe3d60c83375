//! The integration tests of the runtime: one binary, one broker shared by all.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod custom;
mod embedding;
mod faults;
mod ledger;
mod model;
mod pipeline;
mod producer;
mod program;
mod session;
