//! `ORCH_DB_URL` as the driver's options, with the session's settings. Called by `PostgresStore::new`. Nothing of the
//! URL may get into a message or a log.

use std::str::FromStr;
use std::time::Duration;

use orchestrator_core::TrackerError;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

/// The parameters of a URL that the driver knows. It logs others with their values, which may be secrets, and goes on
/// without what was asked for.
const PARAMETERS: [&str; 20] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "connect_timeout",
    "target_session_attrs",
];

/// When the server and the pool give up: before the guard does, whose time-out costs the connection and knows less of
/// what happened.
pub(super) fn give_up(timeout: Duration) -> Duration {
    timeout.mul_f32(0.8)
}

/// The options that `url` stands for.
pub(super) fn parse(url: &str, timeout: Duration) -> Result<PgConnectOptions, TrackerError> {
    let refused = |message: &str| TrackerError {
        message: message.to_owned(),
    };
    let (location, parameters) = url.split_once('?').unwrap_or((url, ""));
    let name = |parameter: &str| parameter.split('=').next().map(str::to_owned);
    let unknown = |name: &String| {
        !name.is_empty() && !PARAMETERS.contains(&name.as_str()) && !name.starts_with("options[")
    };
    if parameters
        .split('&')
        .filter_map(name)
        .any(|name| unknown(&name))
    {
        return Err(refused(
            "ORCH_DB_URL has a parameter that is not known for PostgreSQL; known are sslmode, sslrootcert, sslcert, \
             sslkey, host, port, dbname, user, password, application_name, options and statement-cache-capacity",
        ));
    }
    // The last one of a setting holds, so that those of the URL win.
    let url = format!("{location}?options={}&{parameters}", settings(timeout));
    let no_url = || {
        refused(
            "ORCH_DB_URL is not a PostgreSQL URL: it should look like postgres://user:password@host:5432/database",
        )
    };
    // The driver's own error would quote parts of the URL.
    let options = PgConnectOptions::from_str(&url).map_err(|_| no_url())?;
    // A URL that was pasted into another would have the server repeat its password: no such database.
    if options
        .get_database()
        .is_some_and(|name| name.contains("://"))
    {
        return Err(no_url());
    }
    let options = match options.get_application_name() {
        None => options.application_name("orchestrator"),
        Some(_) => options,
    };
    Ok(options.disable_statement_logging())
}

/// The session's settings, as the URL's parameter `options`.
fn settings(timeout: Duration) -> String {
    let ms = |timeout: Duration| timeout.as_millis().max(1).to_string();
    let settings = [
        // A lock that others hold is told from a slow statement.
        ("lock_timeout", ms(timeout.mul_f32(0.7))),
        ("statement_timeout", ms(give_up(timeout))),
        // A process that stands still in a transaction holds up the others that work on the same rows.
        ("idle_in_transaction_session_timeout", ms(timeout * 10)),
        // Compiling takes longer than any of these statements.
        ("jit", "off".to_owned()),
        // Each has one good plan, over an index, and it is known now: a plan that was made while the table was empty
        // or without statistics must not read all of it. By index also means in the order of the key, in which
        // everybody locks.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        ("enable_seqscan", "off".to_owned()),
        ("enable_bitmapscan", "off".to_owned()),
    ];
    let settings = settings.map(|(key, value)| format!("-c%20{key}%3D{value}"));
    settings.join("%20")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_url_that_is_pasted_into_another_is_refused_without_its_password() {
        let pasted = "postgres://u:outer@h:1/postgres://u:inner@h:1/ledger";
        let error = parse(pasted, Duration::from_secs(1)).unwrap_err();
        assert!(error.message.contains("should look like"), "{error}");
        assert!(!error.message.contains("inner"), "{error}");
        parse("postgres://u:p@h:1/ledger", Duration::from_secs(1)).unwrap();
    }
}
