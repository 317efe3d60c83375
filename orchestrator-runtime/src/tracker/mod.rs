//! The failure ledger's strategies. Driven by the worker.

mod none;

pub use none::NoTracker;
