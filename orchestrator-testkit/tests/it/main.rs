//! Tests of the test kit on real servers: some shared by all, and some that are ill-treated.
#![allow(clippy::unwrap_used)]

mod audit;
mod databases;
mod faults;
mod orphan;
mod pids;
mod processes;
mod proxy;
mod topics;
