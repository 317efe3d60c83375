//! Real servers at hand for tests and demos, an independent reader, and the oracle of the example.
//!
//! For tests, benches and tools only; no production code depends on it. Nothing here may share code
//! with the runtime: what checks must not be wrong in the same way as what is checked.
//!
//! - [`kafka`]: a real broker, from whatever is at hand.
//! - [`postgres`], [`mariadb`]: real database servers; what both can do is in [`database`].
//! - [`admin`], [`writer`], [`reader`]: topics, what goes in, what comes out.
//! - [`audit`]: whether every record of a source is accounted for, on any pair of topics.
//! - [`orders`]: the example app's input from a seed, and what has to come out.
//! - [`process`]: a program under test, signalled and never left behind.
//! - [`proxy`]: cuts, holds and loses chosen requests between a client and its broker.
//! - [`usage`]: what a process takes of the machine.
//! - [`wait`]: for a condition, instead of sleeping.
//! - [`wall_clock`]: a clock that is stepped while a program runs.

pub mod admin;
pub mod audit;
mod command;
pub mod database;
pub mod kafka;
pub mod mariadb;
pub mod orders;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod reader;
mod server;
pub mod usage;
pub mod wait;
pub mod wall_clock;
pub mod workspace;
pub mod writer;
