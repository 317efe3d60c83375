//! The connections to the server, what each is told before it is used, and statements on them. Used by the store.
//! Nothing here may show the URL.

use std::fmt;
use std::ops::ControlFlow::{self, Break, Continue};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use orchestrator_core::{StoreError, TrackerError};
use sqlx::mysql::{MySqlConnectOptions, MySqlRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, FromRow, MySqlConnection, Row};

use super::super::connections::{Connections, Lease};
use super::error::{bad_url, classified, is_broken};
use super::statements::Query;

/// What the parameters of the URL may be. The driver passes over others, so that a misspelt `ssl-mode` would go
/// unnoticed.
const PARAMETERS: [&str; 14] = [
    "ssl-mode",
    "sslmode",
    "ssl-ca",
    "sslca",
    "ssl-cert",
    "sslcert",
    "ssl-key",
    "sslkey",
    "socket",
    // Known, but ours: what we need does not depend on them.
    "charset",
    "collation",
    "statement-cache-capacity",
    "timezone",
    "time-zone",
];

/// Each statement is there in a handful of sizes, see `batches`.
const STATEMENTS_PREPARED: usize = 100;

/// For making tables, when there is no time-out for statements.
const PATIENCE_FOR_TABLES: Duration = Duration::from_secs(3);

/// The least `max_allowed_packet` there is.
const PACKET_MIN: usize = 1024;

/// Statements of one transaction.
pub(super) type Queries<'a> = Box<dyn ExactSizeIterator<Item = Query> + Send + 'a>;

/// See the module.
pub(super) struct Server {
    options: MySqlConnectOptions,
    connections: Connections<MySqlConnection>,
    /// `max_allowed_packet`, as the last connection was told.
    packet: Arc<AtomicUsize>,
}

impl Server {
    /// The same, with at most `count` connections.
    pub(super) fn with_connections(mut self, count: usize) -> Self {
        self.connections = self.connections.with_count(count);
        self
    }

    /// How many connections there may be.
    pub(super) fn connections(&self) -> usize {
        self.connections.count()
    }

    /// The server that `url` names. Nothing is opened yet.
    pub(super) fn new(url: &str, timeout: Duration, count: usize) -> Result<Self, TrackerError> {
        let options = options(url)?;
        let packet = Arc::new(AtomicUsize::new(PACKET_MIN));
        // Before the guard does, whose time-out costs the connection and knows less of what happened; and what waits for
        // a connection, before those who have them.
        let session = session(Some(timeout.mul_f32(0.8)));
        let patience = timeout.mul_f32(0.6);
        let told = Arc::clone(&packet);
        let connections = Connections::new(options.clone(), count, patience);
        let connections = connections.with_setup(Arc::new(move |connection| {
            let (session, told) = (session.clone(), Arc::clone(&told));
            Box::pin(async move {
                let packet = set_up(connection, session).await?;
                told.store(packet, Relaxed);
                Ok(())
            })
        }));
        Ok(Self {
            options,
            connections,
            packet,
        })
    }

    /// A connection of its own on which statements may take their time.
    pub(super) async fn connect(&self) -> Result<MySqlConnection, StoreError> {
        let mut connection = self.options.connect().await.map_err(classified)?;
        set_up(&mut connection, session(None))
            .await
            .map_err(classified)?;
        Ok(connection)
    }

    /// Opens the first of its connections.
    pub(super) async fn try_out(&self) -> Result<(), StoreError> {
        self.lease().await?.give_back();
        Ok(())
    }

    /// Executes the statements for a server that takes so many bytes at once, in one transaction; how many rows they
    /// changed.
    pub(super) async fn execute<'a>(
        &self,
        queries: impl Fn(usize) -> Result<Queries<'a>, StoreError>,
    ) -> Result<u64, StoreError> {
        let mut lease = self.lease().await?;
        loop {
            let queries = match queries(self.packet.load(Relaxed)) {
                Ok(queries) => queries,
                Err(error) => {
                    lease.give_back();
                    return Err(error);
                }
            };
            let result = transaction(lease.connection(), queries).await;
            match after(lease, result).await {
                Break(result) => return result,
                Continue(again) => lease = again,
            }
        }
    }

    /// The rows of a query.
    pub(super) async fn fetch<T>(&self, query: impl Fn() -> Query) -> Result<Vec<T>, StoreError>
    where
        T: for<'r> FromRow<'r, MySqlRow> + Send + Unpin,
    {
        let mut lease = self.lease().await?;
        loop {
            let mut query = query();
            let result = query.build_query_as().fetch_all(lease.connection()).await;
            match after(lease, result).await {
                Break(result) => return result,
                Continue(again) => lease = again,
            }
        }
    }

    async fn lease(&self) -> Result<Lease<'_, MySqlConnection>, StoreError> {
        self.connections.lease().await.map_err(classified)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the options: they have the password.
        f.debug_struct("Server")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// What comes of a call; or the connection had died, and the call is to be made again on another.
async fn after<T>(
    lease: Lease<'_, MySqlConnection>,
    result: Result<T, sqlx::Error>,
) -> ControlFlow<Result<T, StoreError>, Lease<'_, MySqlConnection>> {
    match result {
        Err(error) if is_broken(&error) => match lease.renew().await {
            Some(Ok(renewed)) => Continue(renewed),
            Some(Err(error)) => Break(Err(classified(error))),
            None => Break(Err(classified(error))),
        },
        result => {
            lease.give_back();
            Break(result.map_err(classified))
        }
    }
}

async fn transaction(
    connection: &mut MySqlConnection,
    mut queries: Queries<'_>,
) -> Result<u64, sqlx::Error> {
    if queries.len() == 1 {
        return match queries.next() {
            Some(mut only) => Ok(only.build().execute(connection).await?.rows_affected()),
            None => Ok(0),
        };
    }
    let mut transaction = connection.begin().await?;
    let mut changed = 0;
    for mut query in queries {
        match query.build().execute(&mut *transaction).await {
            Ok(done) => changed += done.rows_affected(),
            Err(error) => {
                transaction.rollback().await?;
                return Err(error);
            }
        }
    }
    transaction.commit().await?;
    Ok(changed)
}

fn options(url: &str) -> Result<MySqlConnectOptions, TrackerError> {
    // The driver's own error would quote parts of the URL.
    let options = MySqlConnectOptions::from_str(url).map_err(|_| bad_url("is no MySQL URL"))?;
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let mut names = parameters.split('&').filter(|pair| !pair.is_empty());
    let is_known = |pair: &str| PARAMETERS.contains(&pair.split('=').next().unwrap_or_default());
    if !names.all(is_known) {
        return Err(bad_url(
            "has a parameter that is none of ssl-mode, ssl-ca, ssl-cert, ssl-key and socket",
        ));
    }
    if options.get_database().is_none() {
        return Err(bad_url("names no database"));
    }
    Ok(options
        .charset("utf8mb4")
        .statement_cache_capacity(STATEMENTS_PREPARED)
        // All of this is in `session`, in one round trip.
        .set_names(false)
        .timezone(None)
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .disable_statement_logging())
}

/// What a connection is told. `/*M!` is read by MariaDB only, `/*!50708` by MySQL: MariaDB limits the time of any
/// statement, MySQL that of a SELECT only. Waiting for a lock is limited on both, but in whole seconds. READ COMMITTED
/// locks the rows that are changed, and no gaps between them.
fn session(timeout: Option<Duration>) -> String {
    let whole = |time: Duration| time.as_secs_f64().ceil().max(1.0);
    let lock = whole(timeout.unwrap_or(PATIENCE_FOR_TABLES));
    // 0: no limit.
    let limit = timeout.map_or(0.0, |timeout| timeout.as_secs_f64().max(0.001));
    let limit_ms = (limit * 1000.0).round();
    // A process that stands still in a transaction holds up the others that work on the same rows.
    let idle = timeout.map_or(0.0, |timeout| whole(timeout * 10));
    format!(
        "SET NAMES utf8mb4, SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
         SESSION autocommit = 1, SESSION innodb_lock_wait_timeout = {lock}, SESSION lock_wait_timeout = {lock} \
         /*M!100300 , SESSION max_statement_time = {limit:.3}, SESSION idle_transaction_timeout = {idle} */ /*!50708 , SESSION max_execution_time = {limit_ms} */; \
         SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SELECT CAST(@@max_allowed_packet AS UNSIGNED)"
    )
}

/// Gives the server's `max_allowed_packet`.
async fn set_up(connection: &mut MySqlConnection, session: String) -> Result<usize, sqlx::Error> {
    let rows = sqlx::raw_sql(AssertSqlSafe(session))
        .fetch_all(connection)
        .await?;
    let packet: u64 = match rows.first() {
        Some(row) => row.try_get(0)?,
        None => 0,
    };
    Ok(usize::try_from(packet)
        .unwrap_or(usize::MAX)
        .max(PACKET_MIN))
}
