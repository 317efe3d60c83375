//! What a test may choose about its MariaDB.
//!
//! Filled in by tests and benches. It may not change what the server does by default in matters of
//! durability or time-outs: a test that wants that says so.

use std::time::Duration;

/// How to start a MariaDB.
///
/// ```
/// use orchestrator_testkit::mariadb::MariaDbOptions;
/// let options = MariaDbOptions::new().own().flush_log_at_trx_commit(2).option("max_connections", "20");
/// ```
#[derive(Debug, Clone)]
pub struct MariaDbOptions {
    pub(super) own: bool,
    pub(super) options: Vec<(String, String)>,
    pub(super) start_deadline: Duration,
}

impl Default for MariaDbOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl MariaDbOptions {
    /// Whatever is at hand, with the server's own defaults and utf8mb4.
    pub fn new() -> Self {
        Self {
            own: false,
            options: Vec::new(),
            start_deadline: Duration::from_secs(60),
        }
    }

    /// A fresh server that nobody else uses, even where `ORCH_TEST_MYSQL_URL` names one: it can be
    /// stopped, paused and restarted.
    #[must_use]
    pub fn own(mut self) -> Self {
        self.own = true;
        self
    }

    /// Sets one option of the server, named as in an option file, over whatever is there. A named
    /// server is not changed.
    #[must_use]
    pub fn option(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((key.into(), value.into()));
        self
    }

    /// When the log reaches the disk: 1 with each commit (as it is unless set), 2 and 0 once a
    /// second; with 2 a commit survives the end of the server, with 0 it may not.
    #[must_use]
    pub fn flush_log_at_trx_commit(self, when: u8) -> Self {
        self.option("innodb_flush_log_at_trx_commit", when.to_string())
    }

    /// How many connections the server takes; 151 unless set.
    #[must_use]
    pub fn max_connections(self, count: u16) -> Self {
        self.option("max_connections", count.to_string())
    }

    /// How long to wait until the server answers; 60 s unless set.
    #[must_use]
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.start_deadline = deadline;
        self
    }
}
