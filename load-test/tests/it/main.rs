//! Tests of the harness as a program, on a real broker.
#![allow(clippy::unwrap_used)]

mod audit;
