//! What a test may choose about its PostgreSQL.
//!
//! Filled in by tests and benches. It may not change what the server does by default in matters of
//! durability or time-outs: a test that wants that says so.

use std::time::Duration;

/// How to start a PostgreSQL.
///
/// ```
/// use orchestrator_testkit::postgres::PostgresOptions;
/// let options = PostgresOptions::new().own().max_connections(20).setting("fsync", "off");
/// ```
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    pub(super) own: bool,
    pub(super) settings: Vec<(String, String)>,
    pub(super) start_deadline: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl PostgresOptions {
    /// Whatever is at hand, with the server's own defaults.
    pub fn new() -> Self {
        Self {
            own: false,
            settings: Vec::new(),
            start_deadline: Duration::from_secs(60),
        }
    }

    /// A fresh server that nobody else uses, even where `ORCH_TEST_POSTGRES_URL` names one: it can
    /// be stopped, paused and restarted.
    #[must_use]
    pub fn own(mut self) -> Self {
        self.own = true;
        self
    }

    /// Sets one line of `postgresql.conf`, over whatever is there. A named server is not changed.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    /// How many connections the server takes; 100 unless set.
    #[must_use]
    pub fn max_connections(self, count: u16) -> Self {
        self.setting("max_connections", count.to_string())
    }

    /// How long to wait until the server answers; 60 s unless set.
    #[must_use]
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.start_deadline = deadline;
        self
    }
}
