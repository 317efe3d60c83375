//! Free ports for servers that will be restarted on them.
//!
//! Called by `kafka` and `database/own.rs`. It must never hand out a port of the ephemeral range: while
//! the server is down, a client that keeps connecting to such a port may be given that very port as
//! its own source, connect to itself, and keep the server from coming back.

use std::io;
use std::net::TcpListener;

/// Below Linux's ephemeral range (32768) and macOS's (49152), above what is commonly in use.
const RANGE: std::ops::Range<u16> = 12_000..32_000;
const TRIES_MAX: usize = 200;

/// A port of this host that nothing listens on. Somebody may take it before the server does: then
/// start again with another.
pub(crate) fn free_port() -> io::Result<u16> {
    for _ in 0..TRIES_MAX {
        let port = fastrand::u16(RANGE);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!(
            "no free port found between {} and {}",
            RANGE.start, RANGE.end
        ),
    ))
}
