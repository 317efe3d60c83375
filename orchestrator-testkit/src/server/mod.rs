//! What every server of ours shares: a process in a folder of its own that cannot outlive us.
//!
//! Called by `kafka` and `database`. Nothing here may know which server it is.

mod ports;
mod process;
mod supervisor;
mod user;

pub(crate) use ports::free_port;
pub(crate) use process::{End, ServerProcess};
pub(crate) use supervisor::Supervisor;
pub(crate) use user::User;

/// Another process may take a free port before the server does; then others are tried.
pub(crate) const START_TRIES_MAX: usize = 3;
/// What every server says of a port that was taken meanwhile.
pub(crate) const PORT_TAKEN: &str = "Address already in use";
