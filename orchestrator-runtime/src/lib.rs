//! Skeleton.
pub mod config;
// Used by the poll thread and the transaction thread, which are still to come.
#[allow(dead_code)]
mod identity;
#[allow(dead_code)]
mod kafka;
