//! Tests of the test kit on a real broker: one shared by all, and some that are ill-treated.
#![allow(clippy::unwrap_used)]

mod faults;
mod orphan;
mod topics;
