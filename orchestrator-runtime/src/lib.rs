//! Skeleton.

pub mod tracker;
