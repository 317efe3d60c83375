//! librdkafka's log lines on their way into tracing: secrets taken out, repetitions counted instead of written.
//! Called by the `ClientContext`s of consumers, producers and admin clients; never on a per-record path.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use tracing::{debug, error, info, warn};

/// The same line is written once in this time.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);
/// How many different lines are remembered; beyond that the oldest knowledge goes.
const REMEMBERED_MAX: usize = 256;

static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// Logs one line of librdkafka's, under the target `kafka`. While a broker is down its clients repeat themselves by
/// the second: the same line, from whichever client, comes through once in 30 s, with the number of those left out.
/// Debug lines, which somebody asked for, all come through.
pub fn kafka_log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
    if matches!(level, Debug) {
        let message = scrub(message);
        return debug!(target: "kafka", facility, "{message}");
    }
    let repeated = {
        let mut repeats = REPEATS.lock().unwrap_or_else(PoisonError::into_inner);
        match repeats.admit(facility, message, Instant::now()) {
            Some(repeated) => (repeated > 0).then_some(repeated),
            None => return,
        }
    };
    let message = scrub(message);
    match level {
        // A broker that cannot be reached is tried again by librdkafka itself: no error of ours.
        Error if matches!(facility, "FAIL" | "ERROR") => {
            warn!(target: "kafka", facility, repeated, "{message}");
        }
        Emerg | Alert | Critical | Error => {
            error!(target: "kafka", facility, repeated, "{message}");
        }
        Warning => warn!(target: "kafka", facility, repeated, "{message}"),
        Notice | Info | Debug => info!(target: "kafka", facility, repeated, "{message}"),
    }
}

/// Which lines were written when, and how often they came since.
#[derive(Default)]
struct Repeats {
    seen: HashMap<u64, Seen>,
}

struct Seen {
    written: Instant,
    left_out: u64,
}

impl Repeats {
    /// `None` if the line is to be left out, else how many like it were since the last.
    fn admit(&mut self, facility: &str, message: &str, now: Instant) -> Option<u64> {
        let line = fingerprint(facility, message);
        if let Some(seen) = self.seen.get_mut(&line) {
            if now.saturating_duration_since(seen.written) < REPEAT_INTERVAL {
                seen.left_out += 1;
                return None;
            }
            seen.written = now;
            return Some(std::mem::take(&mut seen.left_out));
        }
        if self.seen.len() >= REMEMBERED_MAX {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.written);
            if let Some(oldest) = oldest.map(|(line, _)| *line) {
                self.seen.remove(&oldest);
            }
        }
        let seen = Seen {
            written: now,
            left_out: 0,
        };
        self.seen.insert(line, seen);
        Some(0)
    }
}

/// The same for lines that differ only in who says it (`[thrd:..]: ` in front) and how long it took (`(after 3ms in
/// state CONNECT, 4 identical error(s) suppressed)` at the end).
fn fingerprint(facility: &str, message: &str) -> u64 {
    let said = match message.strip_prefix("[thrd:") {
        Some(rest) => rest.split_once("]: ").map_or(rest, |(_, said)| said),
        None => message,
    };
    let said = said.split(" (after ").next().unwrap_or(said);
    let mut hasher = DefaultHasher::new();
    (facility, said).hash(&mut hasher);
    hasher.finish()
}

/// Names whose values are secret, as they end: `sasl.password`, `client_secret`, `access_token`.
const SECRET_NAMES: [&str; 8] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "key.pem",
    "credential",
    "credentials",
    "bearer",
];
const HIDDEN: &str = "***";

/// `text` without the secrets it may hold: values of `..password=`, `..secret=`, `..token=` and the like, the user
/// part of URLs, what follows `Bearer`, and private keys. Rather hides too much than too little.
pub fn scrub(text: &str) -> Cow<'_, str> {
    let lower = text.to_ascii_lowercase();
    let suspicious = SECRET_NAMES.iter().any(|name| lower.contains(name))
        || lower.contains("://")
        || lower.contains("-----begin");
    if !suspicious {
        return Cow::Borrowed(text);
    }
    let mut hidden: Vec<(usize, usize)> = Vec::new();
    for name in SECRET_NAMES {
        for (at, _) in lower.match_indices(name) {
            hidden.extend(value_after(text, at + name.len(), name == "bearer"));
        }
    }
    for (at, _) in lower.match_indices("://") {
        let start = at + "://".len();
        let authority = text[start..]
            .find(|c: char| c == '/' || c.is_whitespace())
            .map_or(text.len(), |length| start + length);
        if let Some(user) = text[start..authority].rfind('@') {
            hidden.push((start, start + user));
        }
    }
    for (at, _) in lower.match_indices("-----begin") {
        let end = lower[at..]
            .find("-----end")
            .map_or(text.len(), |length| at + length);
        hidden.push((at, end));
    }
    Cow::Owned(without(text, hidden))
}

/// Where the value is that belongs to the name ending at `end`, if one follows. A colon followed by a space is prose
/// (`no token: refused`), unless a quote follows.
fn value_after(text: &str, end: usize, after_space: bool) -> Option<(usize, usize)> {
    let rest = text[end..].trim_start_matches(['"', '\'', '\\']);
    let value = match rest.trim_start().strip_prefix('=') {
        Some(value) => value.trim_start(),
        None => match rest.trim_start().strip_prefix(':') {
            Some(value) if value.trim_start().starts_with('"') => value.trim_start(),
            Some(value) if !value.starts_with(' ') => value,
            Some(_) => return None,
            None if after_space => rest.strip_prefix(' ')?,
            None => return None,
        },
    };
    let start = text.len() - value.len();
    let length = match value.chars().next()? {
        quote @ ('"' | '\'') => value[1..].find(quote).map(|length| length + 2),
        _ => value.find(|c: char| c.is_whitespace() || ",;&)}]\"'".contains(c)),
    };
    let end = length.map_or(text.len(), |length| start + length);
    (start < end).then_some((start, end))
}

fn without(text: &str, mut hidden: Vec<(usize, usize)>) -> String {
    hidden.sort_unstable();
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end) in hidden {
        if start >= done {
            out.push_str(&text[done..start]);
            out.push_str(HIDDEN);
        }
        done = done.max(end);
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_prose_is_kept() {
        for (text, expected) in [
            ("sasl.password=hunter2 x", "sasl.password=*** x"),
            ("sasl.password = hunter2", "sasl.password = ***"),
            (
                "conf ssl.key.password=a,b.c=d",
                "conf ssl.key.password=***,b.c=d",
            ),
            (
                r#"{"client_secret":"s3","scope":"x"}"#,
                r#"{"client_secret":***,"scope":"x"}"#,
            ),
            (r#"{"token": "s 3"}"#, r#"{"token": ***}"#),
            (
                r#"Login required username="u" password="a b";"#,
                r#"Login required username="u" password=***;"#,
            ),
            ("Authorization: Bearer ey.x.y", "Authorization: Bearer ***"),
            ("grant?access_token=abc&x=1", "grant?access_token=***&x=1"),
            ("GET https://u:p@host/path", "GET https://***@host/path"),
            ("http://host:80/a@b", "http://host:80/a@b"),
            (
                "k=-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
                "k=***-----END PRIVATE KEY-----",
            ),
            ("SSL_KEY.PEM=abc", "SSL_KEY.PEM=***"),
            (
                "Failed to acquire token: connection refused",
                "Failed to acquire token: connection refused",
            ),
            ("wrong password", "wrong password"),
            (
                "localhost:9092/1: Disconnected",
                "localhost:9092/1: Disconnected",
            ),
            ("token=", "token="),
            ("passwörd=x password=ä", "passwörd=x password=***"),
        ] {
            assert_eq!(scrub(text), expected);
        }
    }

    #[test]
    fn the_same_line_comes_once_in_a_while_and_is_counted() {
        let line = |client: u32, ms: u32| {
            format!(
                "[thrd:localhost:9092/{client}]: localhost:9092/1: Connect to ipv4#127.0.0.1:9092 failed: \
                 Connection refused (after {ms}ms in state CONNECT)"
            )
        };
        let t0 = Instant::now();
        let at = |seconds| t0 + Duration::from_secs(seconds);
        let mut repeats = Repeats::default();
        assert_eq!(repeats.admit("FAIL", &line(1, 0), at(0)), Some(0));
        assert_eq!(repeats.admit("FAIL", &line(1, 3), at(1)), None);
        assert_eq!(repeats.admit("FAIL", &line(2, 4), at(29)), None);
        assert_eq!(repeats.admit("FAIL", "another broker", at(29)), Some(0));
        assert_eq!(repeats.admit("FAIL", &line(1, 1), at(30)), Some(2));
        assert_eq!(repeats.admit("FAIL", &line(1, 1), at(31)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let t0 = Instant::now();
        let mut repeats = Repeats::default();
        for number in 0..10_000_u64 {
            let message = format!("broker {number}");
            let now = t0 + Duration::from_millis(number);
            assert_eq!(repeats.admit("FAIL", &message, now), Some(0));
        }
        assert_eq!(repeats.seen.len(), REMEMBERED_MAX);
    }
}
