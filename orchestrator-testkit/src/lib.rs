//! Real servers at hand for tests and demos, an independent reader, and the oracle of the example.
//!
//! For tests, benches and tools only; no production code depends on it. Nothing here may share code
//! with the runtime: what checks must not be wrong in the same way as what is checked.
//!
//! - [`kafka`]: a real broker, from whatever is at hand.
//! - [`admin`], [`writer`], [`reader`]: topics, what goes in, what comes out.

pub mod admin;
mod command;
pub mod kafka;
pub mod reader;
pub mod workspace;
pub mod writer;
