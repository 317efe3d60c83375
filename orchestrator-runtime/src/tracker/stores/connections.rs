//! A few connections to a database server, kept open between statements. Used by the stores of servers. It must never
//! hand out a connection whose last statement was not answered, nor wait without bound for a free one.
//!
//! Not sqlx's pool, which pings a connection whenever it comes back (a round trip for each statement), and says
//! "timed out" for a server that refuses connections as for one whose connections are all in use.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{ConnectOptions, Connection, Error};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

/// Routers and firewalls forget a connection that is silent for long, many of them after four minutes, and what is
/// sent then vanishes: such a connection is not used again.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub(super) struct Connections<C: Connection> {
    options: C::Options,
    permits: Semaphore,
    /// How long to wait for a free one.
    patience: Duration,
    idle: Mutex<Vec<Idle<C>>>,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
}

impl<C: Connection> Connections<C> {
    /// At most `count` connections. Nothing is opened yet.
    pub(super) fn new(options: C::Options, count: usize, patience: Duration) -> Self {
        Self {
            options,
            permits: Semaphore::new(count),
            patience,
            idle: Mutex::default(),
        }
    }

    /// An open connection, for one call. [`Error::PoolTimedOut`] says that all are in use.
    pub(super) async fn lease(&self) -> Result<Lease<'_, C>, Error> {
        let permit = timeout(self.patience, self.permits.acquire()).await;
        let permit = permit
            .map_err(|_| Error::PoolTimedOut)?
            .map_err(|_| Error::PoolClosed)?;
        let (connection, reused) = match self.pop() {
            Some(connection) => (connection, true),
            None => (self.options.connect().await?, false),
        };
        Ok(Lease {
            connection,
            reused,
            connections: self,
            _permit: permit,
        })
    }

    /// The one that was used last, so that those not needed grow old.
    fn pop(&self) -> Option<C> {
        let mut idle = self.idle();
        idle.retain(|idle| idle.since.elapsed() < IDLE_MAX);
        idle.pop().map(|idle| idle.connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle<C>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection. It is closed when this is dropped, unless it is given back: its statement was given up, and may
/// still be going on.
pub(super) struct Lease<'a, C: Connection> {
    connection: C,
    reused: bool,
    connections: &'a Connections<C>,
    _permit: SemaphorePermit<'a>,
}

impl<C: Connection> Lease<'_, C> {
    pub(super) fn connection(&mut self) -> &mut C {
        &mut self.connection
    }

    /// Gives it back: its statement was answered, and it works.
    pub(super) fn give_back(self) {
        let since = Instant::now();
        let connection = self.connection;
        self.connections.idle().push(Idle { connection, since });
    }

    /// Closes it, for it does not work, and all others that are open, for they will not either. Gives a new one if
    /// this had been used before, for then it may have died long ago.
    pub(super) async fn renew(mut self) -> Option<Result<Self, Error>> {
        self.connections.idle().clear();
        if !self.reused {
            return None;
        }
        match self.connections.options.connect().await {
            Ok(connection) => {
                self.connection = connection;
                self.reused = false;
                Some(Ok(self))
            }
            Err(error) => Some(Err(error)),
        }
    }
}
