//! The program's metrics, held against what the audit counted. Called once the program is idle; it knows the names from
//! the documentation only.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{AuditError, Client, Counts};

const CALL: Duration = Duration::from_secs(10);

/// Reads the metrics of all processes of the program, adds them up, and says what differs from the counts. A counter
/// may lag behind its commit for a moment, so a difference is looked at again until the client's patience runs out.
///
/// # Errors
/// A URL that is none, or behind which there are no metrics of this group.
pub fn compare_metrics(
    client: &Client,
    urls: &[String],
    group: &str,
    counts: &Counts,
) -> Result<Vec<String>, AuditError> {
    let asked = Instant::now();
    loop {
        let mut text = String::new();
        for url in urls {
            let failed = |reason: String| AuditError::Metrics {
                url: url.clone(),
                reason,
            };
            let page = get(url).map_err(failed)?;
            if value(&page, "orch_records_ok_total", group).is_none() {
                let reason = format!("there is no orch_records_ok_total of the group {group}");
                return Err(failed(reason));
            }
            text.push_str(&page);
        }
        let differences = differences(&text, group, counts);
        if differences.is_empty() || asked.elapsed() >= client.patience {
            return Ok(differences);
        }
        client.pause()?;
    }
}

fn differences(text: &str, group: &str, counts: &Counts) -> Vec<String> {
    let pairs = [
        ("orch_records_ok_total", counts.came_out + counts.filtered),
        ("orch_records_skipped_total", counts.failed),
        ("orch_outputs_total", counts.outputs),
        ("orch_dead_letters_total", counts.dead_letters),
    ];
    let differs = |(name, counted): (&str, u64)| {
        let said = value(text, name, group).unwrap_or(0.0);
        (said != counted as f64).then(|| format!("{name} is {said}, and {counted} are there"))
    };
    pairs.into_iter().filter_map(differs).collect()
}

/// The sum over all lines of this name that belong to the group; none if there is no line.
fn value(text: &str, name: &str, group: &str) -> Option<f64> {
    let pipeline = format!("pipeline=\"{group}\"");
    let of_line = |line: &str| {
        let labels = line.strip_prefix(name)?.strip_prefix('{')?;
        let (labels, value) = labels.rsplit_once('}')?;
        let ours = labels.contains(&pipeline);
        let value = value.split_whitespace().next()?;
        ours.then(|| value.parse::<f64>().ok())?
    };
    text.lines().filter_map(of_line).reduce(|a, b| a + b)
}

/// HTTP/1.0, so that the answer is plain and ends with the connection.
fn get(url: &str) -> Result<String, String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or("give a URL that begins with http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(CALL))?;
        stream.set_write_timeout(Some(CALL))?;
        write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    match status.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(format!("the answer is {status:?}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TEXT: &str = "# TYPE orch_records_ok_total counter\n\
        orch_records_ok_total{pipeline=\"g\"} 7\n\
        orch_records_ok_total{pipeline=\"other\"} 100\n\
        orch_records_ok_total{pipeline=\"g\",instance=\"2\"} 3\n\
        orch_records_skipped_total{pipeline=\"g\"} 2\n\
        orch_outputs_total{pipeline=\"g\"} 10\n\
        orch_dead_letters_total{pipeline=\"g\"} 2\n";

    const COUNTS: Counts = Counts {
        records: 12,
        came_out: 9,
        filtered: 1,
        failed: 2,
        waiting: 0,
        outputs: 10,
        dead_letters: 2,
        ledger_rows: 0,
        older: 0,
        foreign: 0,
    };

    #[test]
    fn processes_are_added_up_and_other_groups_left_out() {
        assert_eq!(value(TEXT, "orch_records_ok_total", "g"), Some(10.0));
        assert_eq!(value(TEXT, "orch_records_ok_total", "nobody"), None);
        assert_eq!(differences(TEXT, "g", &COUNTS), [""; 0]);
    }

    #[test]
    fn each_difference_is_named() {
        let counts = Counts {
            failed: 1,
            outputs: 9,
            ..COUNTS
        };
        let expected = [
            "orch_records_skipped_total is 2, and 1 are there",
            "orch_outputs_total is 10, and 9 are there",
        ];
        assert_eq!(differences(TEXT, "g", &counts), expected);
    }

    #[test]
    fn what_is_no_url_is_said() {
        let error = get("https://h/metrics").unwrap_err();
        assert!(error.contains("http://"), "{error}");
    }
}
