//! A few connections to a database server, kept open between statements. Used by the stores of servers. It must never
//! hand out a connection whose last statement was not answered, nor wait without bound for a free one.
//!
//! Not sqlx's pool, which pings a connection whenever it comes back (a round trip for each statement), and says
//! "timed out" for a server that refuses connections as for one whose connections are all in use.

use std::fmt;
use std::io::ErrorKind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::BoxFuture;
use sqlx::{ConnectOptions, Connection, Error};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

/// Routers and firewalls forget a connection that is silent for long, many of them after four minutes, and what is
/// sent then vanishes: such a connection is not used again.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// What is done with a new connection before it is used.
pub(super) type Setup<C> =
    Box<dyn for<'c> Fn(&'c mut C) -> BoxFuture<'c, Result<(), Error>> + Send + Sync>;

/// The most that opening one may take. Callers have less time as a rule, and drop the future.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Connections<C: Connection> {
    options: C::Options,
    setup: Option<Setup<C>>,
    count: usize,
    permits: Semaphore,
    /// How long to wait for a free one.
    patience: Duration,
    idle: Mutex<Vec<Idle<C>>>,
}

struct Idle<C> {
    connection: C,
    since: Instant,
}

impl<C: Connection> Connections<C> {
    /// At most `count` connections. Nothing is opened yet.
    pub(super) fn new(options: C::Options, count: usize, patience: Duration) -> Self {
        Self {
            options,
            setup: None,
            count,
            permits: Semaphore::new(count),
            patience,
            idle: Mutex::default(),
        }
    }

    /// The same, at most `count` of them.
    pub(super) fn with_count(mut self, count: usize) -> Self {
        self.count = count;
        self.permits = Semaphore::new(count);
        self
    }

    /// How many there may be.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The same, each of them set up.
    pub(super) fn with_setup(mut self, setup: Setup<C>) -> Self {
        self.setup = Some(setup);
        self
    }

    /// An open connection, for one call. [`Error::PoolTimedOut`] says that all are in use.
    pub(super) async fn lease(&self) -> Result<Lease<'_, C>, Error> {
        let permit = timeout(self.patience, self.permits.acquire()).await;
        let permit = permit
            .map_err(|_| Error::PoolTimedOut)?
            .map_err(|_| Error::PoolClosed)?;
        let (connection, reused) = match self.pop() {
            Some(connection) => (connection, true),
            None => (self.open().await?, false),
        };
        Ok(Lease {
            connection,
            reused,
            connections: self,
            _permit: permit,
        })
    }

    async fn open(&self) -> Result<C, Error> {
        let opened = timeout(CONNECT_MAX, async {
            let mut connection = self.options.connect().await?;
            if let Some(setup) = &self.setup {
                setup(&mut connection).await?;
            }
            Ok(connection)
        });
        opened
            .await
            .unwrap_or_else(|_| Err(Error::Io(ErrorKind::TimedOut.into())))
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
        match self.connections.open().await {
            Ok(connection) => {
                self.connection = connection;
                self.reused = false;
                Some(Ok(self))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl<C: Connection> fmt::Debug for Connections<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the options: they have the password.
        f.debug_struct("Connections")
            .field("idle", &self.idle().len())
            .finish_non_exhaustive()
    }
}
