//! Tests of the runtime on a real broker, one shared by all.
#![allow(clippy::unwrap_used)]

mod session;
