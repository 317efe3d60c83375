//! A few connections to a database server, kept open between statements. Used by the stores of servers. It must never
//! hand out a connection whose last statement was not answered, nor wait without bound for a free one, nor give up
//! opening one because a caller has no more time: callers have less than a busy server needs to let somebody in.
//!
//! Not sqlx's pool, which pings a connection whenever it comes back (a round trip for each statement), and says
//! "timed out" for a server that refuses connections as for one whose connections are all in use.

use std::fmt;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_core::BoxFuture;
use sqlx::{ConnectOptions, Connection, Error};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

/// Routers and firewalls forget a connection that is silent for long, many of them after four minutes, and what is
/// sent then vanishes: such a connection is not used again.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// What is done with a new connection before it is used.
pub(super) type Setup<C> =
    Arc<dyn for<'c> Fn(&'c mut C) -> BoxFuture<'c, Result<(), Error>> + Send + Sync>;

/// The most that opening one may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Connections<C: Connection> {
    options: C::Options,
    setup: Option<Setup<C>>,
    count: usize,
    /// One for each that is in use or being opened.
    permits: Arc<Semaphore>,
    /// How long to wait for a free one.
    patience: Duration,
    idle: Arc<Mutex<Vec<Idle<C>>>>,
}

struct Idle<C> {
    connection: C,
    since: Instant,
}

impl<C: Connection + Send + 'static> Connections<C> {
    /// At most `count` connections. Nothing is opened yet.
    pub(super) fn new(options: C::Options, count: usize, patience: Duration) -> Self {
        Self {
            options,
            setup: None,
            count,
            permits: Arc::new(Semaphore::new(count)),
            patience,
            idle: Arc::default(),
        }
    }

    /// The same, at most `count` of them.
    pub(super) fn with_count(mut self, count: usize) -> Self {
        self.count = count;
        self.permits = Arc::new(Semaphore::new(count));
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

    /// An open connection, for one call. [`Error::PoolTimedOut`] says that all are in use or being opened.
    pub(super) async fn lease(&self) -> Result<Lease<'_, C>, Error> {
        let permit = timeout(self.patience, self.permits.clone().acquire_owned()).await;
        let permit = permit
            .map_err(|_| Error::PoolTimedOut)?
            .map_err(|_| Error::PoolClosed)?;
        match self.pop() {
            Some(connection) => Ok(Lease {
                connection,
                reused: true,
                connections: self,
                permit,
            }),
            None => self.open(permit).await,
        }
    }

    /// A new one, opened in a task of its own: if the caller gives up meanwhile, it is the next one's.
    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<Lease<'_, C>, Error> {
        let (options, setup) = (self.options.clone(), self.setup.clone());
        let idle = self.idle.clone();
        let (told, opened) = oneshot::channel();
        tokio::spawn(async move {
            let opened = timeout(CONNECT_MAX, async {
                let mut connection = options.connect().await?;
                if let Some(setup) = setup {
                    setup(&mut connection).await?;
                }
                Ok(connection)
            });
            let opened = opened
                .await
                .unwrap_or_else(|_| Err(Error::Io(ErrorKind::TimedOut.into())));
            let opened = opened.map(|connection| (connection, permit));
            if let Err(Ok((connection, permit))) = told.send(opened) {
                lock(&idle).push(Idle::now(connection));
                drop(permit);
            }
        });
        let (connection, permit) = opened.await.unwrap_or(Err(Error::PoolClosed))?;
        Ok(Lease {
            connection,
            reused: false,
            connections: self,
            permit,
        })
    }

    /// The one that was used last, so that those not needed grow old.
    fn pop(&self) -> Option<C> {
        let mut idle = self.idle();
        idle.retain(|idle| idle.since.elapsed() < IDLE_MAX);
        idle.pop().map(|idle| idle.connection)
    }
}

impl<C: Connection> Connections<C> {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle<C>>> {
        lock(&self.idle)
    }
}

impl<C> Idle<C> {
    fn now(connection: C) -> Self {
        Self {
            connection,
            since: Instant::now(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open connection. It is closed when this is dropped, unless it is given back: its statement was given up, and may
/// still be going on.
pub(super) struct Lease<'a, C: Connection> {
    connection: C,
    reused: bool,
    connections: &'a Connections<C>,
    permit: OwnedSemaphorePermit,
}

impl<C: Connection + Send + 'static> Lease<'_, C> {
    pub(super) fn connection(&mut self) -> &mut C {
        &mut self.connection
    }

    /// Gives it back: its statement was answered, and it works.
    pub(super) fn give_back(self) {
        self.connections.idle().push(Idle::now(self.connection));
    }

    /// Closes it, for it does not work, and all others that are open, for they will not either. Gives a new one if
    /// this had been used before, for then it may have died long ago.
    pub(super) async fn renew(self) -> Option<Result<Self, Error>> {
        self.connections.idle().clear();
        match self.reused {
            true => Some(self.connections.open(self.permit).await),
            false => None,
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
